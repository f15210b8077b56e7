"""How often the host waits for a GPU, counted on a device whose memory it cannot see."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import addition_records, write_data
from forks import Fork, finish

import workflow.training.loop
import workflow.training.setup
from workflow import make_job, run_job
from workflow.distributed.device import pick_device
from workflow.distributed.world import World
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import pack, unpack
from workflow.runs.mount import Mount
from workflow.tasks.base import EvalContext
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.prepare import prepare
from workflow.training.setup import load_together, make_engine, weights_in_files
from workflow.training.step import PlannedStep, StepPlanner, add_gradients, finish_step

FLAGS = {
    "model_init_name": "small", "train_batch_size": 6, "micro_batch_tokens": 32, "max_steps": 9,
    "eval_batch_size": 2, "warmup_steps": 0, "dropout_rate": 0.0,
}  # fmt: skip


def count_waits(root: Path, task: str, bf16: bool) -> None:
    """Print what a step and an evaluation's loss or scores count, and that the CPU agrees."""
    from far_device import FarDevice

    far = FarDevice()
    job = prepare(make_job(task, data_name=task, bf16=bf16, **FLAGS), Mount(root))
    world, found = World(), []
    for device in (torch.device("far:0"), pick_device()):
        workflow.training.setup.pick_device = lambda device=device: device
        with far:
            job, model = load_together(job, world, None)
            engine = make_engine(job, model, world, weights_in_files(job, model, None))
            planner = StepPlanner.of(job, model, world)
            for step in (1, 2):
                planned = PlannedStep.of(job, planner.plan(step), step, model.config, rank=0)
                far.counted()
                losses = add_gradients(job, engine, planned, world)
                launched = far.counted()
                outcome = finish_step(job, engine, planned, losses, world)
            finished = far.counted()
            with engine.evaluating() as (model, _):
                examples = job.examples["eval"]
                context = EvalContext(model, job.tokenizer, examples, EvalShard(world))
                evaluation = job.task.evaluation(context, job.spec)
                if task == "clf":
                    assert len(list(evaluation.results)) == 7
            evaluated = far.counted()
        found.append([outcome.loss, outcome.gradient_norm])
        if device.type == "far":
            print(json.dumps([len(planned.micro_batches), launched, finished, evaluated]))
    assert found[0] == pytest.approx(found[1], rel=1e-2 if bf16 else 1e-5)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("task", ["seq2seq", "clf"])
def test_the_host_waits_for_a_gpu_once_a_step_and_once_an_evaluated_batch(
    mount: Mount, task: str, bf16: bool
) -> None:
    records = addition_records(31)
    if task == "clf":
        records = [{"input": r["prompt"], "target": i % 2} for i, r in enumerate(records)]
    write_data(mount, task, records[:24], records[24:])
    (done,) = finish([Fork(count_waits, mount.root, task, bf16)])
    assert done.returncode == 0, done.stderr
    micro_batches, launched, finished, evaluated = json.loads(done.stdout.splitlines()[-1])
    assert micro_batches > 1
    assert launched == {"pinned copy": micro_batches}
    assert finished == {"copy to the host": 1}
    assert evaluated == {"pinned copy": 4, "copy to the host": 4}


def test_a_packed_batch_has_its_parts_at_any_lengths() -> None:
    for counts in ((3, 5, 1), (1, 0, 7), (2, 4, 0)):
        parts = [
            torch.arange(counts[0] * counts[1]).view(counts[:2]) - 5,
            torch.arange(counts[2]) << 40,
            torch.arange(counts[2]) / 3,
        ]
        packed = pack(parts)
        assert packed.nbytes == 8 * counts[0] * counts[1] + 12 * counts[2]
        for part, found in zip(parts, unpack(packed, parts), strict=True):
            assert found.dtype == part.dtype
            assert torch.equal(found, part)


def test_the_next_micro_batch_is_collated_before_anything_waits(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each while a GPU computes the one before; the next step's first before a step is read."""
    events: list[str] = []

    def noted(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def noting(*given: Any, **named: Any) -> Any:
            events.append(method)
            return original(*given, **named)

        monkeypatch.setattr(kind, method, noting)

    noted(Seq2Seq, "collate")
    noted(SingleProcessEngine, "add_gradient")
    noted(SingleProcessEngine, "update")
    monkeypatch.setattr(workflow.training.loop, "probe_memory", lambda *args: None)
    flags = {"max_steps": 2, "eval_steps": 2, "train_batch_size": 3, "micro_batch_tokens": 1}
    run_job(make_job("seq2seq", **(FLAGS | flags), data_name="sums", max_new_tokens=2), mount)
    first = events.index("add_gradient")
    before_last = [*["add_gradient", "collate"] * 3, "update"]
    last = [*["add_gradient", "collate"] * 2, "add_gradient", "update"]
    assert events[first - 1 : first + 13] == ["collate", *before_last, *last]
