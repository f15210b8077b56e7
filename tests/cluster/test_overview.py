"""The state of runs, from their folders and their schedulers."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from workflow.cluster.job_record import JobRecord, folder_of, read_record, write_record
from workflow.cluster.overview import (
    Overview,
    describe,
    in_words,
    inspect_run,
    judge,
    last_lines,
    run_names,
    run_table,
)
from workflow.cluster.scheduler import JobState
from workflow.core.errors import BadInput
from workflow.core.tables import as_lines
from workflow.runs.lock import LOCK_FILE
from workflow.runs.mount import Mount

RUNNING = {"state": "running"}


@pytest.mark.parametrize(
    ("status", "state", "held", "word"),
    [
        ({}, JobState("pending", "Priority"), False, "pending"),
        ({}, JobState("running"), False, "starting"),
        ({}, JobState("failed", "NODE_FAIL"), False, "failed"),
        ({}, JobState("cancelled", "CANCELLED"), False, "cancelled"),
        ({}, JobState("gone"), False, "failed"),
        ({}, JobState("done"), False, "done"),  # e.g. an audit, or a mount not visible here
        ({}, JobState("unknown", "no network"), False, "unknown"),
        (RUNNING, JobState("unknown", "no network"), True, "running"),
        (RUNNING, JobState("unknown", "no network"), False, "unknown"),
        (RUNNING, JobState("running"), True, "running"),
        (RUNNING, JobState("running"), False, "starting"),  # restarted after it was killed
        (RUNNING, JobState("pending", "BeginTime"), False, "pending"),
        (RUNNING, JobState("failed", "NODE_FAIL"), False, "failed"),
        (RUNNING, JobState("gone"), True, "running"),
        (RUNNING, JobState("gone"), False, "lost"),
        (RUNNING, None, True, "running"),
        (RUNNING, None, False, "lost"),
        ({"state": "saved"}, JobState("pending", "BeginTime"), False, "pending"),
        ({"state": "saved"}, JobState("running"), False, "starting"),
        ({"state": "saved"}, JobState("gone"), False, "saved"),
        ({"state": "saved"}, JobState("cancelled"), False, "saved"),
        ({"state": "done"}, None, False, "done"),
        ({"state": "done"}, JobState("running"), False, "starting"),  # for more steps
        ({"state": "failed", "error": "no room"}, JobState("failed"), False, "failed"),
    ],
)
def test_what_a_run_is_doing(
    status: dict[str, Any], state: JobState | None, held: bool, word: str
) -> None:
    assert judge(status, state, held)[0] == word


def test_why() -> None:
    assert judge({}, JobState("pending", "Priority"), False)[1] == "Priority"
    assert judge({"state": "failed", "error": "no room"}, None, False)[1] == "no room"
    assert judge(RUNNING, JobState("failed", "NODE_FAIL"), False)[1] == "NODE_FAIL"
    assert judge({"state": "saved"}, JobState("failed", "TIMEOUT"), False) == ("saved", "TIMEOUT")
    reason = "job ended before the run started; see its log"
    assert judge({}, JobState("gone"), False)[1] == reason


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    (tmp_path / "models").mkdir()
    return Mount(tmp_path)


def write_run(mount: Mount, name: str, held: bool = True, **status: Any) -> Path:
    """Write a run's folder like a live process."""
    folder = mount.models / name
    folder.mkdir(parents=True)
    values = {"state": "running", "step": 10, "max_steps": 100, "restarts": 0, "pid": 7,
            "host": "here", "job_id": None, "time": time.time()}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(values | status))
    args = {"train_batch_size": 8, "gradient_accumulation_steps": 2}
    (folder / "training_args.json").write_text(json.dumps(args))
    line = {"step": 20, "loss": 1.23456, "examples_per_second": 4.0}
    (folder / "train_log.jsonl").write_text(json.dumps(line) + "\n")
    if held:
        (folder / LOCK_FILE).write_text("{}")
    return folder


def test_a_run_that_runs(mount: Mount) -> None:
    folder = write_run(mount, "a")
    found = inspect_run(mount, "a")
    assert (found.word, found.step, found.seconds_left) == ("running", 20, 80 * 16 / 4.0)
    assert describe(found, mount) == [
        "a: running, step 20/100",
        "  loss 1.235, 4 examples/s, about 5 min left without evaluations",
        "  pid 7 on here",
        f"  {folder}",
    ]


def test_a_run_whose_process_is_gone(mount: Mount) -> None:
    folder = write_run(mount, "a")
    long_ago = time.time() - 3600
    os.utime(folder / LOCK_FILE, (long_ago, long_ago))
    assert describe(inspect_run(mount, "a"), mount)[:3] == [
        "a: lost, step 10/100",
        "  process died without reporting a status; rerun the command to resume",
        "  loss 1.235",
    ]


def test_a_table_of_runs_and_jobs(mount: Mount) -> None:
    write_run(mount, "group/b", state="done", step=100, held=False, restarts=2, job_id="17")
    write_run(mount, "a")
    (mount.models / "model").mkdir()
    (mount.models / ".cache").mkdir()
    assert as_lines([run_table([inspect_run(mount, name) for name in run_names(mount)])]) == [
        "run      state    step     loss   examples/s  time left  restarts  job",
        "group/b  done     100/100  1.235  -           -          2         slurm job 17",
        "a        running  20/100   1.235  4           5 min      0         pid 7 on here",
    ]


def test_a_job_that_has_not_begun_is_in_the_table(mount: Mount) -> None:
    record = JobRecord("x/y", "local", str(os.getpid()), host="elsewhere")
    folder_of(mount, "x/y").mkdir(parents=True)
    write_record(folder_of(mount, "x/y"), record)
    assert read_record(folder_of(mount, "x/y")) == record
    assert run_names(mount) == ["x/y"]
    assert inspect_run(mount, "x/y") == Overview(
        "x/y", "unknown", "known only on elsewhere",
        job=f"pid {os.getpid()} on elsewhere",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "submitted", "word"),
    [
        ("done", 3600, "done"),  # submitted again, there was nothing to do
        ("saved", 3600, "failed"),
        ("saved", -3600, "saved"),
        ("running", -3600, "lost"),  # killed a moment ago
    ],
)
def test_a_local_job_that_has_ended(mount: Mount, state: str, submitted: float, word: str) -> None:
    write_run(mount, "a", state=state, step=100)
    folder_of(mount, "a").mkdir(parents=True)
    record = JobRecord("a", "local", "1", started=-1.0, submitted=time.time() + submitted)
    write_record(folder_of(mount, "a"), record)
    assert inspect_run(mount, "a").word == word


def test_a_server_has_no_steps_and_no_folder(mount: Mount) -> None:
    """Not even those of a run of the same name."""
    write_run(mount, "a", state="done")
    folder_of(mount, "a").mkdir(parents=True)
    record = JobRecord("a", "local", "1", started=-1.0, serves=True)
    write_record(folder_of(mount, "a"), record)
    assert describe(inspect_run(mount, "a"), mount) == ["a: ended", f"  {record.title}"]


def test_unreadable_records_are_none(mount: Mount) -> None:
    folder = folder_of(mount, "a")
    folder.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"run_name": 1, "other": 2}'):
        (folder / "job.json").write_text(text)
        assert read_record(folder) is None


def test_no_such_run(mount: Mount) -> None:
    write_run(mount, "a")
    with pytest.raises(BadInput) as caught:
        inspect_run(mount, "b")
    assert str(caught.value) == (
        f"run 'b': does not exist (expected a run in {mount.models}). Hint: use e.g. a; "
        "`list` shows all."
    )


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == []
    lines = [f"line {number}" for number in range(20_000)]
    log.write_text("\n".join(lines) + "\n\n 10%|#  |\r 20%|## |\n")
    assert last_lines(log, 3) == ["line 19998", "line 19999", " 20%|## |"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (29, "29 s"), (31, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"),
     (90000, "1 d 01 h")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
