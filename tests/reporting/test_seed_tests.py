"""The tests below `compare --by_seed`: pairs by seed, differences of paired records, messages."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pytest

from workflow.core.tables import as_lines
from workflow.metrics.significance import mean_difference
from workflow.reporting.compare.seeds import by_seed
from workflow.runs.mount import Mount

LEGEND = [
    "difference to the first row above, of equal seeds, for other seeds and records, or as in over",
    "corrected: p by Holm for all metrics and all pairs of rows; better/worse: below 0.05",
]


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def write(
    mount: Mount, name: str, right: Sequence[bool], seed: int, loss: float = 1.0,
    first: int = 0, data: str = "e1", **job: Any,
) -> Path:  # fmt: skip
    """A finished run that answers records right or wrong.

    Args:
        first: number of the first record.
        data: key of its eval records.
    """
    items = [
        made_runs.answered(f"say {i}", f"it is {i}", f"it is {i}" if is_right else "no")
        for i, is_right in enumerate(right, first)
    ]
    found = {2: ({"loss": loss, "exact_match": float(np.mean(right))}, items)}
    spec = {"task": "seq2seq", "metric_for_best_model": "exact_match", "seed": seed, **job}
    folder = made_runs.write_run(mount.models / name, spec, found)
    status = json.loads((folder / "status.json").read_text()) | {"data": {"eval": data}}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def shown(mount: Mount) -> list[str]:
    """What follows the table of means."""
    lines = as_lines(by_seed(mount, ["s"]))
    return lines[lines.index("") + 1 :] if "" in lines else []


def drawn(shape: tuple[int, ...], share: float, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random(shape) < share


def numbers(line: str) -> list[float]:
    """Difference, ends of the interval, p and corrected p of a row."""
    words = [word for word in line.split("records")[1].split() if word not in ("to", "worse")]
    return [float(word) for word in words]


def test_the_table(mount: Mount) -> None:
    """Four tests of two rows of three are corrected for the six of all three pairs of rows."""
    answers = drawn((3, 5, 60), 0.5)
    answers[0] |= drawn((5, 60), 0.7, 1)
    for cell, of_cell in enumerate(answers):
        for seed, right in enumerate(of_cell):
            loss = 1 + 0.5 * (cell == 1) + 0.01 * seed * (cell + 1)
            write(mount, f"s/{cell}-{seed}", right, seed, loss, lora_r=cell + 1)
    head = "lora_r  metric       over                 difference              95% CI        p"
    rows = [
        (
            "3       exact_match  5 seeds, 60 records     -0.3367  -0.4710 to -0.2023   0.0021",
            "     0.0083  worse",
        ),
        (
            "3       loss         5 seeds alone           +0.0400  +0.0007 to +0.0793   0.0474",
            "     0.1423",
        ),
        (
            "2       exact_match  5 seeds, 60 records     -0.3900  -0.4349 to -0.3451  <0.0001",
            "    <0.0001  worse",
        ),
        (
            "2       loss         5 seeds alone           +0.5200  +0.5004 to +0.5396  <0.0001",
            "    <0.0001  worse",
        ),
    ]
    assert shown(mount) == [f"{head}  corrected", *map("".join, rows), *LEGEND]


def by_hand(differences: Any) -> list[float]:
    """From the (seeds, records) differences, without a bootstrap."""
    seeds, records = differences.shape
    covariances = np.cov(differences, ddof=0) / records
    shared = (covariances.sum() - np.trace(covariances)) / (seeds * (seeds - 1))
    found = mean_difference(differences.mean(axis=1), max(0.0, float(shared)), records)
    assert found.interval is not None and found.p is not None
    return [found.difference, *found.interval, found.p]


def test_records_that_all_seeds_answer_alike(mount: Mount) -> None:
    """Few records cause the difference: seeds agree, but other records would not."""
    base, other = drawn((30,), 0.8), drawn((30,), 0.5, 1)
    for seed in range(4):
        flipped = np.arange(30) == seed
        write(mount, f"s/a{seed}", base ^ flipped, seed, lora_r=1)
        write(mount, f"s/b{seed}", other, seed, lora_r=2)
    differences = np.array([1.0 * other - (base ^ (np.arange(30) == seed)) for seed in range(4)])
    assert numbers(shown(mount)[1])[:4] == pytest.approx(by_hand(differences), rel=0.15)


def test_one_seed(mount: Mount) -> None:
    write(mount, "s/a", [True] * 40, 3, 0.5, lora_r=1)
    write(mount, "s/b", [True] * 20 + [False] * 20, 3, 0.25, lora_r=2)
    assert shown(mount) == [
        "lora_r  metric       over              difference              95% CI        p  corrected",
        "2       exact_match  40 records alone     -0.5000  -0.6589 to -0.3411  <0.0001    <0.0001"
        "  worse",
        "2       loss         1 seed alone         -0.2500                            -          -",
        *LEGEND,
    ]


def test_each_seed_has_its_own_records(mount: Mount) -> None:
    """As with --eval_fraction: the records' part is in the spread of the seeds."""
    differences = []
    for seed in range(3):
        base, other = drawn((40,), 0.9, seed), drawn((40,), 0.4, 9 + seed)
        job = {"first": 40 * seed, "data": f"e{seed}"}
        write(mount, f"s/a{seed}", base, seed, lora_r=1, **job)
        write(mount, f"s/b{seed}", other, seed, lora_r=2, **job)
        differences.append(float(np.mean(1.0 * other - base)))
    found = mean_difference(np.array(differences))
    assert found.interval is not None
    expected = [found.difference, *found.interval, found.p]
    assert "3 seeds, 40 records" in shown(mount)[1]
    assert numbers(shown(mount)[1])[:4] == pytest.approx(expected, abs=1e-4)


def test_seeds_share_some_records(mount: Mount) -> None:
    """Their spread does not show what the shared records do, so the interval is wider."""
    differences = []
    right = drawn((2, 80), 0.6)
    for seed in range(3):
        some = slice(10 * seed, 10 * seed + 60)
        for cell in (0, 1):
            write(mount, f"s/{cell}{seed}", right[cell, some], seed, lora_r=cell + 1,
                  first=10 * seed, data=f"e{seed}")  # fmt: skip
        differences.append((1.0 * right[1] - right[0])[some])
    means = np.array([one.mean() for one in differences])
    shared = (50 + 40 + 50) / 180 * np.mean([one.var() / 60 for one in differences])
    found = mean_difference(means, float(shared), 60)
    assert found.interval is not None and found.p is not None
    sign = -np.sign(found.difference)  # the first row is the better one
    expected = sorted(abs(one) for one in found.interval)
    row = numbers(shown(mount)[1])
    assert sorted(abs(one) for one in row[1:3]) == pytest.approx(expected, rel=0.1)
    assert row[0] == pytest.approx(sign * found.difference, abs=1e-4)


def test_what_cannot_be_tested(mount: Mount) -> None:
    write(mount, "s/a0", drawn((20,), 0.9), 0, lora_r=1)
    write(mount, "s/b1", drawn((20,), 0.5), 1, lora_r=2)
    write(mount, "s/c0", drawn((20,), 0.4), 0, lora_r=3, first=50, data="e2")
    assert shown(mount) == [
        "not tested: lora_r 2: no seed in common with the first row",
        "not tested: lora_r 3: s/a0 and s/c0: no common records among 20 of s/a0, 20 of s/c0 "
        "(expected the same eval records). Hint: evaluate them on the same data (--no_train with "
        "a checkpoint).",
    ]


def test_few_records(mount: Mount) -> None:
    for seed in range(2):
        write(mount, f"s/a{seed}", [True] * 9, seed, 0.1 * seed, lora_r=1)
        write(mount, f"s/b{seed}", [False] * 9, seed, 0.15 * seed, lora_r=2)
    exact_match, loss = shown(mount)[1:3]
    words = " ".join(exact_match.split())
    assert words == "2 exact_match 2 seeds, 9 records: too few -1.0000 - -"
    assert loss.split()[-2:] == ["0.5000", "0.5000"]  # the paired t-test, alone in its family


def test_predictions_that_are_gone(mount: Mount) -> None:
    """Seeds alone count, if the records were the same."""
    for seed in range(3):
        write(mount, f"s/a{seed}", drawn((20,), 0.9, seed), seed, lora_r=1)
        folder = write(mount, f"s/b{seed}", drawn((20,), 0.5, 5 + seed), seed, lora_r=2)
        next(folder.glob("temperature*.json")).unlink()
    assert [line.split()[1:5] for line in shown(mount)[1:3]] == [
        ["exact_match", "3", "seeds", "alone"],
        ["loss", "3", "seeds", "alone"],
    ]
