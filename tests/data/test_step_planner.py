"""The plan of a step: which examples, in which micro-batches, with how much padding."""

import json

import numpy as np
import pytest
from conftest import SHARED_DATA
from transformers import AutoTokenizer

from workflow.data.example_lengths import ExampleLengths
from workflow.data.example_order import step_examples
from workflow.data.step_planner import MicroBatch, batches_by_positions, plan_step


@pytest.mark.parametrize("batch_size", [1, 3, 8, 10, 25])
def test_every_example_occurs_once_per_epoch(batch_size: int) -> None:
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


def positions_of(rows: MicroBatch, sources: np.ndarray, targets: np.ndarray) -> int:
    """Padded positions of a micro-batch; 0 for a rank without work."""
    if not rows:
        return 0
    width = max(sources[row].sum() for row in rows) + max(targets[row].sum() for row in rows)
    return int(width) * len(rows)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("max_positions", [1, 60, 200, 10_000])
@pytest.mark.parametrize("batch_size", [2, 8, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_a_plan_holds_each_example_once_within_its_bounds(
    seed: int, world_size: int, batch_size: int, max_positions: int, packs: bool
) -> None:
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(1, 90, 300), rng.integers(1, 40, 300)
    examples = step_examples(1, batch_size, 300, seed)
    plan = plan_step(
        examples, ExampleLengths(sources, targets).of(examples), max_positions, packs, world_size
    )
    assert sorted(plan.examples) == sorted(examples)
    assert plan.computed == sources[examples].sum() + targets[examples].sum()
    assert plan.padded_positions <= 1.10 * plan.computed

    ranks = [plan.of_rank(rank) for rank in range(world_size)]
    assert tuple(zip(*ranks, strict=True)) == plan.micro_steps
    padded = np.array(
        [[positions_of(rows, sources, targets) for rows in of_rank] for of_rank in ranks]
    )
    assert plan.padded_positions == padded.sum()
    slowest, mean = padded.max(axis=0).sum(), padded.mean(axis=0).sum()
    assert plan.imbalance == pytest.approx(slowest / mean)
    for rows, positions in zip(sum(ranks, ()), padded.ravel(), strict=True):
        lone = len(rows) == 1 and len(rows[0]) == 1
        assert positions <= max_positions or lone
        assert packs or all(len(row) == 1 for row in rows)

    assert (padded[:, :-1] > 0).all()
    assert padded[:, -1].any()
    assert batch_size < world_size or all(any(of_rank) for of_rank in ranks)
    ((shortest,),) = plan.filler
    assert (sources + targets)[shortest] == (sources + targets)[examples].min()


@pytest.mark.parametrize(
    ("max_positions", "packs", "expected"),
    [
        (
            100,
            True,
            [[[0], [6]], [[1], [9]], [[3]], [[10]], [[8]], [[4], [5]], [[11]], [[2]], [[7]]],
        ),
        (
            10_000,
            False,
            [[[0], [6]], [[1], [9]], [[3]], [[10], [8]], [[4]], [[5], [11], [2]], [[7]]],
        ),
        (300, True, [[[4, 3, 9, 6]], [[7, 2, 10]], [[11, 5, 8, 1, 0]]]),
        (10_000, True, [[[4, 3, 9, 6]], [[7, 2, 10], [11, 5, 8, 1, 0]]]),
    ],
)
def test_the_plan_of_a_single_process_is_unchanged(
    max_positions: int, packs: bool, expected: list[list[list[int]]]
) -> None:
    sources = np.array([1, 11, 35, 20, 19, 32, 6, 47, 49, 12, 42, 33])
    targets = np.array([1, 7, 23, 3, 16, 16, 3, 23, 7, 1, 5, 19])
    plan = plan_step(np.arange(12), ExampleLengths(sources, targets), max_positions, packs)
    assert [[row.tolist() for row in rows] for rows in plan.of_rank(0)] == expected
    assert plan.imbalance == 1.0


def test_equal_lengths_are_computed_at_once() -> None:
    lengths = np.full(64, 10)
    plan = plan_step(np.arange(64), ExampleLengths(lengths, lengths), max_positions=10_000)
    assert len(plan.micro_steps) == 1
    assert plan.padded_positions == plan.computed


@pytest.mark.parametrize(
    ("max_positions", "micro_steps"), [(10_000, 1), (320, 1), (319, 2), (80, 4)]
)
def test_equal_lengths_take_as_few_micro_steps_as_memory_allows(
    max_positions: int, micro_steps: int
) -> None:
    lengths = np.full(64, 10)
    plan = plan_step(np.arange(64), ExampleLengths(lengths, lengths), max_positions, world_size=4)
    assert len(plan.micro_steps) == micro_steps
    assert plan.imbalance == pytest.approx(1.0, abs=0.13 if max_positions == 319 else 1e-9)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("batch_size", [64, 256])
def test_ranks_carry_nearly_equal_positions(batch_size: int, packs: bool) -> None:
    rng = np.random.default_rng(0)
    sources, targets = np.exp(rng.normal(3.5, 0.5, (2, 2000))).astype(int) + 1
    plans = [
        plan_step(examples, ExampleLengths(sources, targets).of(examples), 2048, packs, 4)
        for examples in (step_examples(step, batch_size, 2000, seed=0) for step in range(1, 6))
    ]
    assert np.mean([plan.imbalance for plan in plans]) <= (1.05 if batch_size == 64 else 1.025)


def test_ranks_take_many_short_examples_next_to_a_long_one() -> None:
    lengths = np.array([1000] + [10] * 500)
    plan = plan_step(
        np.arange(501), ExampleLengths(lengths, 0 * lengths), max_positions=1000, world_size=4
    )
    assert len(plan.micro_steps) == 2
    assert [sum(len(rows) for rows in ranks) for ranks in plan.micro_steps] == [301, 200]
    assert plan.imbalance == pytest.approx(1.0, abs=0.01)


def test_an_oversized_example_does_not_raise_the_limit_of_other_ranks() -> None:
    lengths = np.array([3000] + [10] * 500)
    plan = plan_step(
        np.arange(501), ExampleLengths(lengths, 0 * lengths), max_positions=1000, world_size=4
    )
    assert sorted(plan.examples) == list(range(501))
    sizes = [[len(rows) for rows in ranks] for ranks in plan.micro_steps]
    assert sizes == [[1, 100, 100, 100], [50, 50, 50, 50]]


def test_micro_steps_are_as_few_as_the_padding_allows() -> None:
    lengths = np.repeat([3200, 1600, 800, 400, 200, 100], [1, 2, 4, 8, 16, 32])
    plan = plan_step(np.arange(63), ExampleLengths(lengths, 0 * lengths), 20_000, world_size=2)
    assert len(plan.micro_steps) == 3
    assert plan.padded_positions == plan.computed


def test_a_micro_step_is_added_if_it_saves_more_than_it_costs() -> None:
    lengths = np.repeat([110, 100], 1000)
    plan = plan_step(np.arange(2000), ExampleLengths(lengths, 0 * lengths), 200_000, world_size=2)
    assert 2 <= len(plan.micro_steps) <= 4
    assert plan.padded_positions <= 1.02 * plan.computed


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_examples_are_packed_only_if_it_saves_time(world_size: int) -> None:
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(50, 100, 160), np.full(160, 3)

    def time(step: int, packs: bool) -> float:
        examples = step_examples(step, 16, 160, seed=0)
        plan = plan_step(
            examples, ExampleLengths(sources, targets).of(examples), 2048, packs, world_size
        )
        return plan.imbalance * plan.padded_positions / world_size + 256 * len(plan.micro_steps)

    assert all(time(step, packs=True) <= time(step, packs=False) for step in range(1, 11))


def test_short_examples_are_not_packed_into_fewer_rows_than_there_are_ranks() -> None:
    lengths = np.arange(8, 24)
    plan = plan_step(
        np.arange(16), ExampleLengths(lengths, lengths), 2048, packs=True, world_size=8
    )
    assert [len(ranks) for ranks in plan.micro_steps] == [8]
    assert all(plan.micro_steps[0])
    assert plan.imbalance == plan.padded_positions / plan.computed == 1.0


def test_a_rank_without_work_has_an_empty_micro_batch() -> None:
    plan = plan_step(
        np.arange(3), ExampleLengths(np.array([9, 2, 5]), np.ones(3, int)), 100, world_size=4
    )
    assert [[len(rows) for rows in ranks] for ranks in plan.micro_steps] == [[1, 1, 1, 0]]
    assert plan.of_rank(3) == ((),)
    assert [row.tolist() for row in plan.filler] == [[1]]
    assert plan.padded_positions == plan.computed == 19


@pytest.mark.parametrize("world_size", [1, 2])
def test_records_without_a_target_or_of_one_token_are_planned(world_size: int) -> None:
    sources, targets = np.array([1, 1, 1]), np.array([0, 0, 1])
    plan = plan_step(np.arange(3), ExampleLengths(sources, targets), 8, world_size=world_size)
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


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 7, 100, 1000])
@pytest.mark.parametrize("max_positions", [100, 800, 50_000])
def test_an_evaluation_s_batches_fill_the_rounds_of_all_ranks(
    max_positions: int, count: int, world_size: int
) -> None:
    sources, targets = np.random.default_rng(count).integers(1, 250, (2, count))
    alone = batches_by_positions(sources, targets, max_positions)
    batches = batches_by_positions(sources, targets, max_positions, world_size=world_size)
    assert np.concatenate(batches).tolist() == np.concatenate(alone).tolist()
    rounds = -(-len(alone) // world_size)
    assert len(batches) == min(rounds * world_size, count)
    positions = [(sources[b].max() + targets[b].max()) * len(b) for b in batches]
    assert all(p <= max_positions or len(b) == 1 for p, b in zip(positions, batches, strict=True))
    largest = max(positions)
    if max(len(batch) for batch in batches) > 1:
        smaller = batches_by_positions(sources, targets, int(largest / 1.03) - 1)
        assert len(smaller) > rounds * world_size or largest == (sources + targets).max()


@pytest.mark.parametrize(
    ("rows", "max_rows", "world_size", "sizes"),
    [
        (7, 16, 4, [2, 2, 2, 1]),
        (3, 16, 4, [1, 1, 1]),
        (33, 16, 2, [9, 8, 8, 8]),
        (32, 16, 2, [16, 16]),
        (0, 16, 2, []),
    ],
)
def test_rows_of_an_evaluation_are_spread_over_the_ranks(
    rows: int, max_rows: int, world_size: int, sizes: list[int]
) -> None:
    lengths = np.full(rows, 5)
    batches = batches_by_positions(lengths, lengths, 10_000, max_rows, world_size)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(index for batch in batches for index in batch) == list(range(rows))


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the real data beside the repository")
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize(
    ("name", "source_key", "target_key"),
    [("instruct", "prompt", "completion"), ("sports", "input", "target")],
)
def test_padding_and_imbalance_on_real_data_stay_small(
    name: str, source_key: str, target_key: str, world_size: int, packs: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED_DATA / "t5_tokenizer")
    records = json.loads((SHARED_DATA / f"{name}.json").read_text())["train"]

    def lengths(key: str) -> np.ndarray:
        ids = tokenizer([str(record[key]) for record in records])["input_ids"]
        return np.array([len(row) for row in ids])

    sources, targets = lengths(source_key), lengths(target_key)
    plans = [
        plan_step(examples, ExampleLengths(sources, targets).of(examples), 2048, packs, world_size)
        for examples in (
            step_examples(step, 64, len(records), seed=0)
            for step in range(1, len(records) // 64 + 1)
        )
    ]
    padded = sum(plan.padded_positions for plan in plans)
    assert padded <= 1.10 * sum(plan.computed for plan in plans)
    assert np.mean([plan.imbalance for plan in plans]) <= 1.06
