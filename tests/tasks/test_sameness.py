"""A model that predicts the same for all records is reported once training has begun."""

from typing import Any

import pytest
from test_processes import job, write_scored

from workflow import make_job, run_job
from workflow.runs.mount import Mount
from workflow.tasks.sameness import Sameness

HINT = (
    "although their texts differ. Hint: if this lasts, train longer or with a lower "
    "--learning_rate; check that --max_source_length keeps what differs"
)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ([("a", "x", "so"), ("b", "y", "so")], "all 2 records have the same prediction, 'so', "),
        ([("a", 0, 0.25), ("b", 1, 0.2500004)], "all 2 records have the same prediction, 0.25, "),
        ([("a", None, ""), ("b", None, "")], "all 2 records have the same prediction, '', "),
        ([("a", "x", "so"), ("b", "y", "no")], None),
        ([("a", 0, 0.25), ("b", 1, 0.2501)], None),
        ([("a", "x", "x"), ("b", "x", "x")], None),
        ([("a", "x", "x"), ("a", "y", "x")], None),
        ([("a", "x", "x")], None),
        ([], None),
    ],
)
def test_equal_predictions_of_different_records(
    added: list[Any], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    sameness = Sameness()
    for one in added:
        sameness.add(*one)
    sameness.warn()
    assert caplog.messages == ([f"{told}{HINT}"] if told else [])


@pytest.mark.parametrize("task", ["seq2seq", "clf"])
def test_a_run_tells_it_after_each_evaluation_but_not_before_training(
    mount: Mount, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The texts are cut to the few tokens that all have."""
    write_scored(mount)
    values = job(task, "run", max_source_length=3, max_steps=2, eval_steps=1)
    run = run_job(make_job(**values), mount)
    told = [message for message in caplog.messages if message.endswith(HINT)]
    assert len(told) == 2
    values |= {"model_init_name": f"{run.name}/checkpoint-2", "training_run_name": "again"}
    caplog.clear()
    run_job(make_job(**values, no_train=True), mount)
    assert [message for message in caplog.messages if message.endswith(HINT)] == told[1:]
    assert told[0].startswith("all 7 records have the same prediction, ")
