"""What remains of an evaluation that fails or is stopped midway, on all processes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_world import run_world

from workflow.training.asked_metrics import asked_metrics

# Evaluations of 25 records, of which each process finds its own, and something goes wrong.
MEMBER = """
import errno, json, sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
import torch
from torch.distributed import FileStore
from workflow.core import files
from workflow.inference import result_spool as found
from workflow.inference import eval_shard as share
from workflow.tasks.base import Examples, Prediction
from workflow.training.evaluate import evaluate
from workflow.training.context import RunContext
from workflow.runs.train_state import Progress
from workflow.training.run_dir import RunFacts, RunFolder
from workflow.distributed.stop import Stop
from workflow.distributed.world import World

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
share.AT_ONCE = 4

def failing(owner, name, at):
    function, calls = getattr(owner, name), []
    def call(*values, **named):
        calls.append(values)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*values, **named)
    return patch.object(owner, name, call)

FAULTS = {
    "none": None,
    "items": (0, files.WholeList, "add", 11),
    "finish": (0, files.WholeList, "finish", 1),
    "finding": (1, found.ResultSpool, "put", 3),
    "flush": (1, found.ResultSpool, "flush", 1),
    "reading": (1, found.ResultSpool, "between", 2),
    "folder": (1, found, "TemporaryFile", 1),
    "stop": None,
    "lost": None,
}

class Evaluation:
    timing, count = "seconds", 25

    def __init__(self, shard):
        batches = shard.of([[i] for i in range(25)], [1] * 25)
        self.results = ((batch[0], {"of": batch[0]}) for batch, counts in batches)

    def judge(self, indexes, results):
        for index, result in zip(indexes, results, strict=True):
            if index == 13 and fault == "stop":
                stop._reason = "the test"
            if index == 13 and fault == "lost":
                lock.taken_by = "another"
            yield Prediction({"i": index}, result, {"i": index, "found": result})

    def metrics(self):
        return {"loss": 1.0}

class Task:
    def evaluation(self, context, spec):
        return Evaluation(context.shard)

world = World(rank, size, size, FileStore(str(folder / "store"), size))
world.begin(torch.device("cpu"))
told = {}
for fault, (at_fault, *where) in ((name, how or (None,)) for name, how in FAULTS.items()):
    (folder / fault).mkdir(exist_ok=True)
    stop, lock = Stop(), SimpleNamespace(loss=None, taken_by=None)
    run = RunFolder(folder / fault, RunFacts(), lock, world.is_rank_zero)
    stop.defer(run.path, world, lock)
    spec = SimpleNamespace(
        task="clf", metric=(), max_source_length=9, max_target_length=9,
        truncation_side="right", virtual_ids=0,
    )
    examples = {"eval": Examples(None, range(25), None)}
    job = SimpleNamespace(task=Task(), tokenizer=None, examples=examples, spec=spec)
    with failing(*where) if rank == at_fault else patch.object(share, "AT_ONCE", 4):
        try:
            told[fault] = evaluate(RunContext(job, world, stop, run, Progress(3)), None)["loss"]
        except Exception as error:
            told[fault] = [type(error).__name__, str(error)]
world.end()
print(json.dumps(told))
"""

NAMES = ("checkpoint-3-preds.json", "preds.json")
FULL = ["OSError", "[Errno 28] No space left on device"]
TOLD = {
    "none": 1.0,
    **dict.fromkeys(("items", "finish", "finding", "flush", "reading", "folder"), FULL),
    "stop": ["Stopped", "the test"],
    "lost": 1.0,
}


def test_an_aborted_evaluation_ends_on_all_and_leaves_no_predictions(tmp_path: Path) -> None:
    assert run_world(MEMBER, 2, tmp_path) == [TOLD] * 2
    for fault in TOLD.keys() - {"none"}:
        assert list((tmp_path / fault).iterdir()) == [], fault
    items = [{"i": index, "found": {"of": index}} for index in range(25)]
    wanted = json.dumps(items, indent=2, ensure_ascii=False) + "\n"
    for name in NAMES:
        assert (tmp_path / "none" / name).read_text() == wanted
    names = {path.name for path in (tmp_path / "none").iterdir()}
    assert names == {*NAMES, "metrics.jsonl", "report.html"}


@pytest.mark.parametrize("name", ["step", "time", "loss"])
def test_a_metric_of_the_user_metrics_takes_the_place_of_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def {name}(records, predictions):\n    return 0.5\n")
    spec = SimpleNamespace(metric=(f"{tmp_path / 'own.py'}:{name}",), seed=0)
    job: Any = SimpleNamespace(spec=spec)
    assert asked_metrics(job, [], {}, {"loss": 1.0}) == {f"user_{name}": 0.5}
