"""The plan of a step: which examples, in which micro-batches, with how much padding."""

import json

import numpy as np
import pytest
from conftest import SHARED_DATA
from transformers import AutoTokenizer

from workflow.batching import batches_by_positions, plan_step, step_examples


@pytest.mark.parametrize("batch_size", [1, 3, 8, 10, 25])
def test_every_example_stands_once_in_every_epoch(batch_size: int) -> None:
    stream = np.concatenate([step_examples(s, batch_size, 10, seed=3) for s in range(1, 61)])
    for epoch in range(len(stream) // 10):
        assert sorted(stream[epoch * 10 : epoch * 10 + 10]) == list(range(10))


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = [tuple(step_examples(1, 50, 50, seed)) for seed in range(3)]
    orders.append(tuple(step_examples(2, 50, 50, seed=0)))
    assert len(set(orders)) == 4


def test_a_resumed_order_is_a_slice_of_the_uninterrupted_one() -> None:
    whole = [step_examples(step, 7, 30, seed=1).tolist() for step in range(1, 21)]
    resumed = [step_examples(step, 7, 30, seed=1).tolist() for step in range(12, 21)]
    assert resumed == whole[11:]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("max_positions", [1, 60, 200, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_a_plan_holds_each_example_once_within_its_bounds(
    max_positions: int, seed: int, packs: bool
) -> None:
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(1, 90, 300), rng.integers(1, 40, 300)
    examples = step_examples(1, 64, 300, seed)
    plan = plan_step(examples, sources, targets, max_positions, packs)
    assert sorted(plan.examples) == sorted(examples)
    padded = [
        (max(sources[row].sum() for row in rows) + max(targets[row].sum() for row in rows))
        * len(rows)
        for rows in plan.micro_batches
    ]
    assert plan.padded_positions == sum(padded)
    assert plan.real_positions == sources[examples].sum() + targets[examples].sum()
    assert plan.padded_positions <= 1.10 * plan.real_positions
    for rows, positions in zip(plan.micro_batches, padded, strict=True):
        assert positions <= max_positions or (len(rows) == 1 and (len(rows[0]) == 1 or packs))
        assert packs or all(len(row) == 1 for row in rows)


def test_equal_lengths_are_computed_at_once() -> None:
    lengths = np.full(64, 10)
    plan = plan_step(np.arange(64), lengths, lengths, max_positions=10_000)
    assert len(plan.micro_batches) == 1
    assert plan.padded_positions == plan.real_positions


def test_records_without_a_target_or_of_one_token_are_planned() -> None:
    plan = plan_step(np.arange(3), np.array([1, 1, 1]), np.array([0, 0, 1]), max_positions=8)
    assert sorted(plan.examples) == [0, 1, 2]


def test_an_evaluation_s_batches_hold_each_index_once_within_their_bound() -> None:
    sources, targets = np.random.default_rng(0).integers(1, 250, (2, 1000))
    batches = batches_by_positions(sources, targets, 800)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    for batch in batches:
        positions = (sources[batch].max() + targets[batch].max()) * len(batch)
        assert positions <= 800 or len(batch) == 1
    by_rows = batches_by_positions(sources, targets, 800, max_rows=16)
    assert [len(batch) for batch in by_rows] == [16] * 62 + [8]


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(
    ("name", "source_key", "target_key"),
    [("instruct", "prompt", "completion"), ("sports", "input", "target")],
)
def test_padding_on_real_data_stays_within_a_tenth(
    name: str, source_key: str, target_key: str, packs: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    records = json.loads((SHARED_DATA / f"{name}.json").read_text())["train"]

    def lengths(key: str) -> np.ndarray:
        ids = tokenizer([str(record[key]) for record in records])["input_ids"]
        return np.array([len(row) for row in ids])

    sources, targets = lengths(source_key), lengths(target_key)
    plans = [
        plan_step(step_examples(step, 64, len(records), seed=0), sources, targets, 2048, packs)
        for step in range(1, len(records) // 64 + 1)
    ]
    padded = sum(plan.padded_positions for plan in plans)
    assert padded <= 1.10 * sum(plan.real_positions for plan in plans)
