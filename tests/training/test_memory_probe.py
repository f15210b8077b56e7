"""The largest micro-batch of a run is found, probed first, and leaves no trace."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, addition_records, make_t5, write_data, write_hub_folder
from forks import Fork, finish, run_script
from test_processes import job
from test_resume import FLAGS, Lines, assert_identical

import workflow.training.loop
from workflow import make_job, run_job
from workflow.data.example_lengths import ExampleLengths
from workflow.data.example_order import step_examples
from workflow.data.step_planner import plan_step
from workflow.runs.mount import Mount
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.memory_probe import filled_up, heaviest_steps, largest_shape
from workflow.training.oom import Shape


def bytes_of(shape: Shape) -> float:
    """As a model of a few layers takes them: positions, logits and attention."""
    rows, source, target = shape.rows, shape.source, shape.target
    return rows * (450 * source + 700 * target + 3 * (source + target) ** 2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("max_positions", [1, 60, 256, 2048, 10**6])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_micro_batch_is_larger_than_the_one_that_is_tried(
    seed: int, packs: bool, max_positions: int, world_size: int
) -> None:
    rng = np.random.default_rng(seed)
    count, batch_size = int(rng.integers(1, 300)), int(rng.integers(1, 40))
    sources = rng.lognormal(3.5, 0.8, count).astype(int) + 1
    targets = rng.lognormal(2.5, 0.8, count).astype(int) + 1
    steps = [step_examples(step, batch_size, count, seed) for step in range(1, 6)]
    lengths = ExampleLengths(sources, targets)
    plans = [
        plan_step(examples, lengths.of(examples), max_positions, packs, world_size)
        for examples in steps
    ]
    largest = largest_shape(plans, lengths, bytes_of)
    for plan in plans:
        for rows in (rows for ranks in plan.micro_steps for rows in ranks if rows):
            source, target = (max(n[row].sum() for row in rows) for n in (sources, targets))
            assert bytes_of(Shape(len(rows), source, target)) <= bytes_of(largest)
            alone = len(rows) == 1 and len(rows[0]) == 1
            assert alone or len(rows) * (source + target) <= max_positions


@pytest.mark.parametrize(("packs", "batch_size"), [(True, 16), (False, 16), (True, 64)])
@pytest.mark.parametrize("world_size", [1, 4])
def test_the_largest_is_found_among_the_heaviest_steps(
    packs: bool, batch_size: int, world_size: int
) -> None:
    """A few steps are planned; those of a run would take minutes."""
    rng = np.random.default_rng(0)
    count = 80 * batch_size
    sources = (rng.lognormal(3.5, 0.8, count).astype(int) + 1).clip(max=1024)
    targets = (rng.lognormal(2.5, 0.8, count).astype(int) + 1).clip(max=512)
    examples = partial(step_examples, batch_size=batch_size, count=count, seed=0)
    lengths = ExampleLengths(sources, targets)
    chosen = heaviest_steps(range(1, 81), examples, lengths, 16)
    assert 4 <= len(chosen) <= 16
    assert list(heaviest_steps(range(1, 9), examples, lengths, 16)) == list(range(1, 9))
    found, largest = (
        largest_shape(
            [
                plan_step(of_step, lengths.of(of_step), 2048, packs, world_size)
                for of_step in map(examples, steps)
            ],
            lengths,
            bytes_of,
        )
        for steps in (chosen, range(1, 81))
    )
    assert bytes_of(filled_up(found, 2048, 512)) >= bytes_of(largest)


def test_an_enlarged_shape_stays_within_the_bound() -> None:
    assert filled_up(Shape(8, 100, 28), 2048, 28) == Shape(10, 100, 28)
    assert filled_up(Shape(15, 100, 28), 2048, 28) == Shape(16, 100, 28)
    assert filled_up(Shape(15, 100, 30), 2048, 99) == Shape(15, 100, 36)
    assert filled_up(Shape(1, 3000, 28), 2048, 28) == Shape(1, 3000, 28)


@pytest.mark.parametrize(
    "flags", [{}, {"bf16": True}, {"optim": "adafactor", "task": "clf"}], ids=str
)
def test_a_trial_leaves_no_trace(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, read_lines: Lines, flags: dict[str, Any]
) -> None:
    """Several processes are compared with one, and resumed runs with uninterrupted ones."""
    scored = [{"input": r["prompt"], "target": r["id"] % 3 / 2} for r in addition_records(24)]
    write_data(mount, "more", scored, scored[:5])

    def run(name: str) -> Path:
        values = FLAGS | flags
        return run_job(make_job(**job(values.pop("task", "seq2seq"), name, **values)), mount)

    tried = run("tried")
    monkeypatch.setattr(workflow.training.loop, "probe_memory", lambda *args: None)
    assert_identical(tried, run("not_tried"), read_lines)


def test_the_largest_micro_batch_comes_before_the_first_step(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large as any later one, with weight zero, and with the optimizer state allocated."""
    computed: list[tuple[Shape, float]] = []
    add_gradient = SingleProcessEngine.add_gradient

    def noting(self: Any, batch: Any, weight: float, last: bool) -> torch.Tensor:
        if len(computed) > 0:
            assert self._optimizer.state
        computed.append((Shape.of(batch), weight))
        return add_gradient(self, batch, weight, last)

    monkeypatch.setattr(SingleProcessEngine, "add_gradient", noting)
    run_job(make_job(**job("seq2seq", "noted", **FLAGS, micro_batch_tokens=64)), mount)
    assert [weight for _, weight in computed[:4]] == [0, 0, 0, pytest.approx(0.05, rel=0.9)]
    tried = computed[2][0]
    later = [shape for shape, _ in computed[3:]]
    assert tried in later
    assert tried.positions == max(shape.positions for shape in later)


def test_a_loss_that_is_not_finite_in_a_trial_changes_nothing(mount: Mount) -> None:
    """The step that has it reports it."""
    from test_engine import make_engine, make_spec

    from workflow.models.batch import Batch

    def of(token: int) -> Batch:
        ids, ones = torch.full((2, 3), token), torch.ones(2, 3, dtype=torch.int64)
        return Batch(ids, ones, ids, ones, torch.arange(6), torch.full((6,), token))

    model = make_t5()
    model.shared.weight.data[7] = float("inf")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = make_engine(model, make_spec())
    engine.probe(of(5), of(7))
    engine.restore(0, ())
    for name, tensor in engine.master.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    loss = engine.add_gradient(of(5), 1.0, last=True)
    figures = engine.update(loss[None])
    assert np.isfinite([figures.loss, figures.gradient_norm]).all()


def test_under_zero_too_a_first_loss_that_is_not_finite_is_left_to_its_step(mount: Mount) -> None:
    """DeepSpeed skips the probe's update then, and allocates no optimizer state."""
    model = make_t5()
    model.lm_head.weight.data[:] = torch.nan
    write_hub_folder(model, mount.models / "bad", "safetensors")
    words = [
        "--mount", str(mount.root), "--model_init_name", "bad", "--data_name", "sums",
        "--zero_stage", "1", "--max_steps", "2", "--eval_on_start", "false", "--bf16", "false",
    ]  # fmt: skip
    (done,) = finish([Fork(run_script, ROOT / "seq2seq.py", *words)])
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith("step 1: non-finite loss on records train[")
