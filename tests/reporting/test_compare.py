"""Comparisons of runs: paired records, paired resamples, complete messages."""

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pytest
from conftest import ROOT

from workflow.cli.main import main
from workflow.core.errors import BadInput
from workflow.core.tables import as_lines
from workflow.metrics import bootstrap
from workflow.metrics.scores import in_range, score_metrics
from workflow.metrics.text import TextMetrics
from workflow.reporting.compare import compare
from workflow.reporting.compare.comparison import Comparison, compare_named
from workflow.reporting.compare.html import page
from workflow.reporting.compare.pairing import LOSS, TIE, WIN
from workflow.reporting.compare.selectors import find_named
from workflow.reporting.compare.terminal import describe, sparklines
from workflow.reporting.report.blocks import Chart, Items, Series, Table
from workflow.reporting.report.html import render
from workflow.runs.mount import Mount

GOLDEN = ROOT / "tests" / "golden"
REFERENCES = [
    "the cat sat", "two plus two is four", "Paris", "a b c d", "so be it", "x y z", "no",
    "one two three", "red green blue", "go west", "left or right", "up and down",
]  # fmt: skip
NEAR = [
    "the cat sat", "two and two is four", "Paris", "a b d", "so it be", "x y z", "yes",
    "one two three", "red green blue", "go east", "left or right", "up and down",
]  # fmt: skip
FAR = [
    "a cat sits", "two plus two is four", "London", "a b c d e", "it", "z", "yes",
    "one", "blue green red", "go west", "left", "up",
]  # fmt: skip
TARGETS = [0.0, 1.0, 1.0, 0.0, 0.75, 0.25, 1.0, 0.0, 1.0, 0.0, 0.5, 1.0]
SURE = [0.1, 0.9, 0.8, 0.3, 0.7, 0.2, 0.95, 0.05, 0.85, 0.15, 0.55, 0.9]
UNSURE = [0.4, 0.6, 0.3, 0.5, 0.7, 0.205, 0.6, 0.45, 0.55, 0.4, 0.55, 0.3]


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Fewer resamples, in several blocks."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 70)
    return 40


def write_run(
    mount: Mount, name: str, items: dict[int, list[Any]], task: str = "seq2seq", **spec: Any
) -> Path:
    """A finished run with the records of each evaluated step."""
    job = {"task": task, "learning_rate": 1e-3, **spec}
    evaluations = {
        step: ({"loss": 2 / (step + 1), "eval_seconds": 1.0}, found)
        for step, found in items.items()
    }
    folder = made_runs.write_run(
        mount.models / name, job, evaluations, [4 / (step + 1) for step in (1, 2, 3, 4)]
    )
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"data": {"eval": "e1"}}))
    return folder


def answered(answers: Sequence[str], references: Sequence[str | None] = REFERENCES) -> list[Any]:
    return [
        made_runs.answered(f"say {reference}", reference, answer)
        for answer, reference in zip(answers, references, strict=True)
    ]


def scored(scores: Sequence[float | None], targets: Sequence[float] = TARGETS) -> list[Any]:
    return [
        made_runs.scored(f"input {i}", target, score)
        for i, (score, target) in enumerate(zip(scores, targets, strict=True))
    ]


def compared(mount: Mount, *words: str) -> Comparison:
    return compare_named(find_named(mount, words))


def in_json(found: Comparison) -> Any:
    return json.loads(json.dumps(found.as_json(), allow_nan=False))


def naive_intervals(
    found: Comparison,
    resamples: int,
    judge: Callable[[Sequence[Any], Sequence[Any]], dict[str, Any]],
) -> dict[str, list[float]]:
    """Percentiles of the difference, with both evaluations scored on every resample."""
    pairs = sorted(found.pairs.pairs, key=lambda pair: pair.key)
    generator = np.random.default_rng(0)
    differences: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = [pairs[i] for i in generator.integers(len(pairs), size=len(pairs))]
        expected = [pair.expected for pair in drawn]
        base, other = (judge([pair.predictions[i] for pair in drawn], expected) for i in (0, 1))
        for name, value in other.items():
            if value is not None and base[name] is not None:
                differences.setdefault(name, []).append(value - base[name])
    return {name: np.percentile(of, [2.5, 97.5]).tolist() for name, of in differences.items()}


def text_points(answers: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
    judged = TextMetrics()
    for answer, reference in zip(answers, references, strict=True):
        judged.add([answer], [reference])
    return dict(judged.points())


def score_points(scores: Sequence[Any], targets: Sequence[Any]) -> dict[str, Any]:
    unit = [(np.array(values, np.float64) - 1) / 4 for values in (scores, targets)]
    measured = in_range(score_metrics(*unit), 1, 5)
    return {name: value for name, value in measured.items() if not name.endswith("_ci95")}


def test_text_intervals_match_a_naive_bootstrap(mount: Mount, few: int) -> None:
    write_run(mount, "a", {9: answered(NEAR)})
    write_run(mount, "b", {9: answered(FAR)}, seed=3)
    found = compared(mount, "a", "b")
    expected = naive_intervals(found, few, text_points)
    assert set(expected) == {metric.name for metric in found.metrics if metric.has_intervals}
    for metric in found.metrics:
        if metric.has_intervals:
            assert metric.intervals[0] == pytest.approx(expected[metric.name], rel=1e-9), (
                metric.name
            )
            values = [text_points(texts, REFERENCES)[metric.name] for texts in (NEAR, FAR)]
            assert metric.values == pytest.approx(values)
            assert metric.differences == pytest.approx([values[1] - values[0]])


def test_score_intervals_match_a_naive_bootstrap(mount: Mount, few: int) -> None:
    stars = [[1 + 4 * value for value in values] for values in (SURE, UNSURE, TARGETS)]
    of_range = {"target_min": 1, "target_max": 5}
    write_run(mount, "a", {9: scored(stars[0], stars[2])}, "clf", **of_range)
    write_run(mount, "b", {9: scored(stars[1], stars[2])}, "clf", **of_range)
    found = compared(mount, "a", "b")
    with pytest.MonkeyPatch.context() as once:
        once.setattr(bootstrap, "RESAMPLES", 1)
        expected = naive_intervals(found, few, score_points)
        values = [score_points(scores, stars[2]) for scores in stars[:2]]
    judged = {metric.name: metric for metric in found.metrics if metric.has_intervals}
    assert set(judged) == set(expected) - {"best_threshold", "best_threshold_accuracy"}
    for name, metric in judged.items():
        assert metric.intervals[0] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
        assert metric.values == pytest.approx([one[name] for one in values]), name


def test_a_run_does_not_differ_from_its_copy(mount: Mount, few: int) -> None:
    for task, items in (("seq2seq", answered(NEAR)), ("clf", scored(SURE))):
        write_run(mount, f"{task}1", {9: items}, task)
        shutil.copytree(mount.models / f"{task}1", mount.models / f"{task}2")
        found = compared(mount, f"{task}1", f"{task}2")
        assert all(metric.differences == (0,) for metric in found.metrics)
        assert {m.intervals[0] for m in found.metrics if m.has_intervals} == {(0, 0)}
        assert found.counted(1) == {WIN: 0, LOSS: 0, TIE: len(items)}
        assert found.verdicts() == [
            f"{task}2 and {task}1 have identical predictions on all records"
        ]
        assert found.fields == {}


def test_swapping_the_runs_negates_the_differences(mount: Mount, few: int) -> None:
    write_run(mount, "a", {9: answered(NEAR)}, seed=5)
    write_run(mount, "b", {9: answered(FAR)}, seed=2)
    one, other = compared(mount, "a", "b"), compared(mount, "b", "a")
    for metric, negated in zip(one.metrics, other.metrics, strict=True):
        assert metric.differences[0] == -(negated.differences[0] or 0.0)
        if metric.has_intervals:
            low, high = metric.intervals[0] or (math.nan, math.nan)
            assert negated.intervals[0] == pytest.approx((-high, -low))
    assert one.counted(1) == {WIN: 3, LOSS: 8, TIE: 1}
    assert other.counted(1) == {WIN: 8, LOSS: 3, TIE: 1}


def test_records_are_paired_in_any_order_with_duplicates(mount: Mount, few: int) -> None:
    references = [*REFERENCES, "again", "again"]
    write_run(mount, "a", {9: answered([*NEAR, "again", "agen"], references)})
    there = answered([*FAR, "no", "again"], references)
    write_run(mount, "b", {9: there})
    # Duplicates are paired in order.
    order = [13, 3, 0, 12, 1, 6, 11, 2, 9, 5, 8, 4, 10, 7]
    there[12], there[13] = there[13], there[12]
    write_run(mount, "c", {9: [there[i] for i in order]})
    straight, shuffled = compared(mount, "a", "b"), compared(mount, "a", "c")
    assert shuffled.pairs == straight.pairs
    assert shuffled.metrics == straight.metrics
    assert [p.predictions for p in straight.pairs.pairs][-2:] == [
        ("again", "no"),
        ("agen", "again"),
    ]


def test_records_without_a_pair_are_excluded_and_reported(mount: Mount, few: int) -> None:
    write_run(mount, "a", {9: answered([*NEAR, "?"], [*REFERENCES, None])})
    write_run(mount, "b", {9: answered(FAR[2:], REFERENCES[2:])})
    found = compared(mount, "a", "b")
    assert found.pairs.left_out == (3, 0)
    assert [metric.name for metric in found.metrics if not metric.has_intervals] == []
    lines = as_lines(describe(found, True))
    start = lines.index("a at step 9, b at step 9; on the 10 common records")
    assert lines[start + 1] == (
        "excluded: 3 records of a, and metrics that need the model, e.g. loss"
    )
    write_run(mount, "c", {9: scored(SURE)}, "clf")
    write_run(mount, "d", {9: scored([None, *UNSURE[1:]])}, "clf")
    found = compared(mount, "c", "d")
    assert found.metrics[-1].name == "loss"
    assert as_lines(describe(found, True))[2:4] == [
        "c at step 9, d at step 9; on the 11 records with targets and scores",
        "excluded: 1 record of c, 1 record of d",
    ]


def test_the_verdict_names_the_compared_records(mount: Mount, few: int) -> None:
    write_run(mount, "right", {9: answered(REFERENCES)})
    write_run(mount, "near", {9: answered(NEAR[1:], REFERENCES[1:])})
    write_run(mount, "far", {9: answered(FAR)}, metric_for_best_model="rougeL")
    on = " on the 11 common records"
    found = compared(mount, "right", "near")
    assert found.verdicts() == [
        f"near is worse than right: exact_match -45.5 points (95% CI -73.0 to -18.0){on}"
    ]
    assert in_json(found)["verdicts"] == found.verdicts()
    assert on in render(page(found))
    write_run(mount, "other", {9: answered(["a", *FAR[1:2], *NEAR[2:]])})
    (sentence,) = compared(mount, "near", "other").verdicts()
    assert sentence.startswith("no significant difference between other and near: exact_match ")
    assert sentence.endswith(on)
    sentences = compared(mount, "near", "right", "far").verdicts()
    assert all(one.endswith(on) for one in sentences)
    write_run(mount, "same", {9: answered([*NEAR[1:], "?"], [*REFERENCES[1:], None])})
    assert compared(mount, "near", "same").verdicts() == [
        f"same and near have identical predictions{on}"
    ]
    write_run(mount, "unjudged", {9: answered([*REFERENCES, "!"], [*REFERENCES, None])})
    write_run(mount, "wrong", {9: answered([*NEAR, "?"], [*REFERENCES, None])})
    (sentence,) = compared(mount, "unjudged", "wrong").verdicts()
    assert sentence.endswith(" on the 12 records with completions")


def test_few_records_allow_no_verdict(mount: Mount, few: int) -> None:
    for count in (1, 9, 10):
        write_run(mount, f"wrong{count}", {9: answered(["?"] * count, REFERENCES[:count])})
        write_run(mount, f"right{count}", {9: answered(REFERENCES[:count], REFERENCES[:count])})
    few_told = "too few records for a verdict (at least 10 needed)"
    for count in (1, 9):
        found = compared(mount, f"wrong{count}", f"right{count}")
        assert found.verdicts() == [
            f"right{count} vs wrong{count}: exact_match +100.0 points; {few_told}"
        ]
        lines = as_lines(describe(found, True))
        assert not any(line.endswith(("  better", "  worse")) for line in lines)
        legend = "95% CI of the difference: paired bootstrap, 1,000 resamples"
        assert f"{legend}; too few records for better/worse" in lines
        (row,) = (line.split() for line in lines if line.startswith("exact_match "))
        assert row == ["exact_match", "0.0000", "1.0000", "+1.0000"]
    found = compared(mount, "right10", "wrong10")
    assert found.verdicts() == [
        "wrong10 is worse than right10: exact_match -100.0 points (no CI: all resamples agree)"
    ]
    assert sum(line.endswith("  worse") for line in as_lines(describe(found, True))) >= 4
    found = compared(mount, "right9", "wrong10")
    assert found.verdicts() == [
        f"wrong10 vs right9: exact_match -100.0 points on the 9 common records; {few_told}"
    ]


def test_equal_metrics(mount: Mount, few: int) -> None:
    for count in (9, 10):
        for name in "ab":
            items = answered([name * 3] * count, REFERENCES[:count])
            write_run(mount, f"{name}{count}", {9: items}, metric_for_best_model="exact_match")
    assert compared(mount, "a10", "b10").verdicts() == ["b10 and a10 have the same exact_match"]
    few_told = "too few records for a verdict (at least 10 needed)"
    assert compared(mount, "a9", "b9").verdicts() == [
        f"b9 and a9 have the same exact_match; {few_told}"
    ]
    assert compared(mount, "a9", "b10").verdicts() == [
        f"b10 and a9 have the same exact_match on the 9 common records; {few_told}"
    ]


def test_a_metric_that_depends_on_few_records(mount: Mount) -> None:
    """A single yes in 40 records: without it in a resample, f1 is undefined."""
    targets = [1.0] + [0.0] * 39
    for name, first in (("a", 0.4), ("b", 0.6)):
        items = scored([first] + [0.1] * 39, targets)
        write_run(mount, name, {9: items}, "clf", metric_for_best_model="f1")
    found = compared(mount, "a", "b")
    assert found.verdicts() == [
        "b vs a: f1 +100.0 points; undefined in many resamples, too few relevant records for a "
        "verdict"
    ]
    (row,) = (line for line in as_lines(describe(found, True)) if line.startswith("f1 "))
    assert row.split() == ["f1", "0.0000", "1.0000", "+1.0000"]


def test_terminal_output_is_printable(mount: Mount, few: int) -> None:
    nasty = "red\x1b[31m\nline\u202e"
    items = [made_runs.answered(f"{text} {nasty}", text + nasty, nasty) for text in REFERENCES]
    others = [made_runs.answered(f"{text} {nasty}", text + nasty, text) for text in REFERENCES]
    write_run(mount, "a", {9: items}, template=nasty, **{nasty: 1})
    folder = write_run(mount, "b", {9: others}, template="plain {input}")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 9, "loss": 0.5, nasty: 1.0}))
    lines = as_lines(describe(compared(mount, "a", "b"), True))
    assert all(line.isprintable() for line in lines)
    told = "'red\\x1b[31m\\nline\\u202e'"
    assert f"  template                   {told}  plain {{input}}" in lines
    assert any(line.startswith(f"{told} ") for line in lines)


def test_config_differences(mount: Mount, few: int) -> None:
    for name, keys, of_job in (
        ("a", {"train": "1111111122", "eval": "3" * 32}, {"report_to": ["wandb"], "seed": 1}),
        ("b", {"train": "2222222222", "eval": "3" * 32}, {"report_to": [], "seed": 2}),
        ("c", {"eval": "4" * 32}, {"seed": 1}),
        ("d", None, {"seed": 1}),
    ):
        folder = write_run(mount, name, {9: answered(NEAR)}, **of_job)
        status = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(status | {"data": keys}))
    assert compared(mount, "a", "b").fields == {
        "seed": (1, 2), "data file or tokenizer (train)": ("11111111", "22222222"),
    }  # fmt: skip
    assert compared(mount, "a", "c").fields == {
        "data file or tokenizer (train)": ("11111111", None),
        "data file or tokenizer (eval)": ("33333333", "44444444"),
    }


def test_a_users_metric_may_have_any_name(mount: Mount, few: int) -> None:
    noted = {"step": 9, "own": 1, "own_ci95": 0.5, "f_ci95": 2.0, "g_ci95": "x", "step_ci95": None}
    for name in "ab":
        folder = write_run(mount, name, {9: answered(NEAR if name == "a" else FAR)})
        (folder / "metrics.jsonl").write_text(json.dumps(noted))
    found = compared(mount, "a", "b")
    metrics = {metric.name: metric for metric in found.metrics}
    assert [*metrics][-3:] == ["own", "own_ci95", "f_ci95"]
    assert metrics["own"].values == (1, 1)
    assert metrics["own"].intervals == (None,)
    assert any(line.startswith("f_ci95 ") for line in as_lines(describe(found, True)))
    assert "f_ci95" in render(page(found))


def test_metrics_for_which_lower_is_better(mount: Mount, few: int) -> None:
    for name, scores in (("sure", SURE), ("unsure", UNSURE)):
        write_run(mount, name, {9: scored(scores)}, "clf", metric_for_best_model="brier")
    (sentence,) = compared(mount, "sure", "unsure").verdicts()
    assert sentence.startswith("unsure is worse than sure: brier +")
    assert sentence.endswith("; lower is better)")
    (sentence,) = compared(mount, "unsure", "sure").verdicts()
    assert sentence.startswith("sure is better than unsure: brier -")


@pytest.mark.parametrize(
    ("metric", "answers", "expected"),
    [("chrf", NEAR, "chrf"), ("loss", NEAR, "exact_match"), ("loss", ["?"] * 12, "rougeL")],
)
def test_the_metric_of_the_verdict(
    mount: Mount, few: int, metric: str, answers: list[str], expected: str
) -> None:
    write_run(mount, "a", {1: answered(["!"] * 12), 2: answered(answers)},
              metric_for_best_model=metric)  # fmt: skip
    assert compared(mount, "a").main.name == expected


def test_metrics_over_samples_need_equal_n_samples(mount: Mount, few: int) -> None:
    for name, samples in (("a", 4), ("b", 4), ("c", 2)):
        folder = write_run(mount, name, {9: answered(NEAR)}, n_samples=samples)
        line = {"step": 9, "exact_match": 0.4, "exact_match_best_of_n": 0.5, "mine": 2}
        (folder / "metrics.jsonl").write_text(json.dumps(line))
    names = [[m.name for m in compared(mount, "a", o).metrics][-2:] for o in ("b", "c")]
    assert names == [["exact_match_best_of_n", "mine"], ["chrf", "mine"]]


def test_selecting_steps(mount: Mount) -> None:
    write_run(mount, "a", {0: [], 50: [], 100: []}, metric_for_best_model="chrf")
    write_run(mount, "group/b@c", {5: []})
    write_run(mount, "a@100", {7: []})
    values = {0: 3.0, 50: 9.0, 100: 4.0}
    lines = [json.dumps({"step": step, "chrf": value}) for step, value in values.items()]
    (mount.models / "a" / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 15')

    def labels(*words: str) -> list[str]:
        return [f"{one.label} {one.step}" for one in find_named(mount, words)]

    assert labels("a", "group/b@c") == ["a 100", "group/b@c 5"]
    assert labels("a@best", "group/b@c@5") == ["a@50 50", "group/b@c@5 5"]
    assert labels("a", "group/b@c@last") == ["a 100", "group/b@c@5 5"]
    assert labels("a@last", "a@0", "a@100") == ["a@100 100", "a@0 0", "a@100@7 7"]
    assert labels("a@last", "a@100") == ["a@100 100", "a@100@7 7"]
    assert labels("a/") == labels(".//a") == ["a@0 0", "a@100 100"]
    assert labels("./group//b@c/", "./a/@0") == ["group/b@c 5", "a@0 0"]


def test_labels_of_selected_steps(mount: Mount, few: int) -> None:
    for name, best in (("k1", 400), ("k2", 350)):
        folder = write_run(mount, name, {best: answered(NEAR), 500: answered(FAR)})
        lines = [{"step": best, "loss": 1.0}, {"step": 500, "loss": 2.0}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = compared(mount, "k1@best", "k2@best", "k2")
    assert found.labels == ["k1@400", "k2@350", "k2@500"]
    assert [one["name"] for one in in_json(found)["runs"]] == found.labels
    assert found.verdicts()[0] == "k2@350 and k1@400 have identical predictions on all records"
    assert compared(mount, "k1", "k2@last").labels == ["k1", "k2@500"]


def refusal(mount: Mount, *words: str) -> str:
    with pytest.raises(BadInput) as caught:
        compared(mount, *words)
    return str(caught.value)


def test_unknown_runs_and_steps(mount: Mount) -> None:
    write_run(mount, "seed1", {0: answered(NEAR), 50: answered(NEAR)})
    write_run(mount, "seed2", {})
    write_run(mount, "seed3", {4: answered(NEAR)})
    assert refusal(mount, "sed1", "seed1@7", "what", "seed2", "seed3@best@x", "") == "\n".join(
        [
            f"run 'sed1': does not exist (expected a run in {mount.models}). "
            "Hint: did you mean seed1 or seed3 or seed2?",
            "seed1@7: no evaluation at step '7' (expected best, last or one of 0, 50). "
            "Hint: name one of these after the @.",
            f"run 'what': does not exist (expected a run in {mount.models}). "
            "Hint: use one of seed1, seed2, seed3.",
            "run seed2: no evaluations (expected at least one). Hint: wait for its first.",
            "run 'seed3@best': does not exist (expected a run in "
            f"{mount.models}). Hint: did you mean seed3 or seed2 or seed1?",
            f"run '': does not exist (expected a run in {mount.models}). "
            "Hint: use one of seed1, seed2, seed3.",
            "(6 problems in all)",
        ]
    )
    assert refusal(mount, "seed3") == (
        "run seed3: one evaluation, at step 4 (expected two to compare). Hint: name a second run."
    )
    assert refusal(mount, "seed3@last") == (
        "seed3@last: one evaluation (expected two to compare). "
        "Hint: name a second, or seed3 without a step to compare its first and last."
    )
    twice = (
        "seed1@50: the same evaluation twice (expected different evaluations). "
        "Hint: remove one of them."
    )
    for again in ("seed1@50", "./seed1", "seed1/@last"):
        assert refusal(mount, "seed1", again) == twice
    (mount.models / "linked").symlink_to(mount.models / "seed1")
    assert refusal(mount, "seed1", "linked") == twice.replace("seed1", "linked")


def test_names_stay_in_the_mount(mount: Mount) -> None:
    for place in ("../a", ".jobs/a"):
        write_run(mount, place, {4: answered(NEAR)})
    (mount.models / "group").mkdir()
    outside = (
        "outside of mount/models, hidden, not printable or longer than 120 "
        f"bytes (expected a folder name inside {mount.models}). Hint: choose another name."
    )
    names = ("../a", "/models/a", ".jobs/a", "group/../a")
    assert refusal(mount, *names[:3], "group/../a@last") == "\n".join(
        [*(f"run '{name}': {outside}" for name in names), "(4 problems in all)"]
    )
    assert refusal(mount, "x\x1b[31m", "y\0", "z/" * 3000, "y\n@2") == "\n".join(
        [
            f"run 'x\\x1b[31m': {outside}",
            f"run 'y\\x00': does not exist (expected a run in {mount.models}). Hint: train one.",
            f"run '{'z/' * 29}…: does not exist (expected a run in {mount.models}). "
            "Hint: train one.",
            f"run 'y\\n': {outside}",
            "(4 problems in all)",
        ]
    )
    write_run(mount, "a", {4: answered(NEAR)})
    assert refusal(mount, "a", "a/checkpoint-4", "a@\x1b[31m") == (
        f"run 'a/checkpoint-4': inside {mount.models}/a, which is a model or a run "
        "(expected a separate folder). Hint: use a@4.\n"
        "'a@\\x1b[31m': no evaluation at step '\\x1b[31m' (expected best, last or one of "
        "4). Hint: name one of these after the @.\n(2 problems in all)"
    )
    for number in range(6):
        write_run(mount, f"run{number}", {})
    assert refusal(mount, "a", "zzz") == (
        f"run 'zzz': does not exist (expected a run in {mount.models}). "
        "Hint: use one of a, run0, run1, run2, run3."
    )


def test_incomparable_runs(mount: Mount) -> None:
    write_run(mount, "a", {4: answered(NEAR)})
    write_run(mount, "b", {4: answered(["?"], ["other"])})
    write_run(mount, "mute", {4: answered(["?"], [None]), 5: answered(["!"], [None])})
    write_run(mount, "unit", {4: scored(SURE)}, "clf")
    write_run(mount, "stars", {4: scored(SURE)}, "clf", target_min=1, target_max=5)
    unsaid = [made_runs.answered(f"say {text}", None, "?") for text in REFERENCES]
    write_run(mount, "unsaid", {4: unsaid})
    write_run(mount, "part", {4: unsaid[:3]})
    write_run(mount, "other", {4: [made_runs.answered(f"say {REFERENCES[0]}", "dog", "?")]})
    untold = [made_runs.scored(f"input {i}", None, 0.5) for i in range(12)]
    write_run(mount, "untold", {4: untold}, "clf")
    write_run(mount, "diverged", {4: scored([None] * 12)}, "clf")
    gone = write_run(mount, "gone", {4: answered(NEAR)})
    (gone / "temperature=0.00_n=1_step=4.json").unlink()
    cut = write_run(mount, "cut", {4: answered(NEAR)})
    (cut / "temperature=0.00_n=1_step=4.json").write_text("[{")
    odd = write_run(mount, "odd", {4: [{"prompt": "x"}]})
    assert refusal(mount, "a", "unit", "stars") == (
        "run unit: task clf (expected seq2seq, as in a). Hint: compare runs of one task.\n"
        "run stars: task clf (expected seq2seq, as in a). Hint: compare runs of one task.\n"
        "(2 problems in all)"
    )
    assert refusal(mount, "unit", "stars") == (
        "run stars: targets 1 to 5 (expected targets 0 to 1, as in unit). "
        "Hint: compare runs with the same --target_min and --target_max."
    )
    assert refusal(mount, "a", "b") == (
        "a and b: no common records among 12 of a, 1 of b (expected the same eval records). "
        "Hint: evaluate them on the same data (--no_train with a checkpoint)."
    )
    assert refusal(mount, "mute") == (
        "mute@4 and mute@5: no common record with a completion "
        "(expected completions as references). Hint: evaluate them on data with completions."
    )
    assert refusal(mount, "unsaid", "a", "mute@4") == (
        "unsaid and a and mute@4: no common records among 12 of unsaid, 12 of a, 1 of mute@4 "
        "(expected the same eval records). "
        "Hint: evaluate them on the same data (--no_train with a checkpoint)."
    )
    assert refusal(mount, "a", "unsaid", "part") == (
        "a and unsaid and part: the same prompts, but no completions in unsaid and part "
        "(expected the same completions in all). "
        "Hint: evaluate unsaid and part on data with completions (--no_train with a checkpoint)."
    )
    assert refusal(mount, "a", "other") == (
        "a and other: the same prompts, but different completions (expected the same completions "
        "in all). Hint: evaluate a and other on the same data (--no_train with a checkpoint)."
    )
    assert refusal(mount, "unit", "untold") == (
        "unit and untold: the same inputs, but no targets in untold (expected the same targets "
        "in all). Hint: evaluate untold on data with targets (--no_train with a checkpoint)."
    )
    assert refusal(mount, "unit", "diverged") == (
        "unit and diverged: no record with a finite score in every evaluation (expected finite "
        "scores). Hint: name other steps, before the divergence."
    )
    assert refusal(mount, "a", "gone", "cut", "odd") == (
        "gone@4: temperature=0.00_n=1_step=4.json is missing (expected the predictions of this "
        "step). "
        "Hint: name another step, or evaluate its checkpoint again (--no_train).\n"
        f"{cut}/temperature=0.00_n=1_step=4.json: an incomplete or invalid JSON list "
        "(expected an intact file). Hint: restore it from a copy or create it again.\n"
        f"{odd}/temperature=0.00_n=1_step=4.json: a malformed record (expected predictions "
        "of a run). Hint: restore the file from a copy, or evaluate again.\n"
        "(3 problems in all)"
    )


@pytest.mark.parametrize(
    ("task", "damage"),
    [
        ("clf", {"orig_d": {"input": "x", "target": "seven"}}),
        ("clf", {"orig_d": {"input": "x", "target": math.nan}}),
        ("clf", {"orig_d": {"input": "x", "target": 10**400}}),
        ("clf", {"orig_d": {"input": 3, "target": 1}}),
        ("clf", {"pred_score": "high"}),
        ("clf", {"pred_score": [0.5]}),
        ("seq2seq", {"prompt": ["x"]}),
        ("seq2seq", {"demonstration": 7}),
        ("seq2seq", {"generations": []}),
        ("seq2seq", {"generations": [{"lm_postprocess": None}]}),
    ],
)
def test_a_malformed_record_is_reported(mount: Mount, task: str, damage: dict[str, Any]) -> None:
    items = scored(SURE) if task == "clf" else answered(NEAR)
    write_run(mount, "a", {4: items}, task)
    folder = write_run(mount, "b", {4: [items[0] | damage]}, task)
    (path,) = [
        path for path in folder.glob("*.json") if "step=4" in path.name or "-4-" in path.name
    ]
    assert refusal(mount, "a", "b") == (
        f"{path}: a malformed record (expected predictions of a run). "
        "Hint: restore the file from a copy, or evaluate again."
    )


def write_both(mount: Mount) -> None:
    write_run(mount, "a", {0: answered(["?"] * 12), 9: answered(NEAR)})
    write_run(mount, "b", {0: answered(["?"] * 12), 9: answered(FAR)}, learning_rate=1e-4)
    write_run(mount, "c", {9: scored(SURE)}, "clf")
    write_run(mount, "d", {9: scored(UNSURE)}, "clf", template="Is it? {input}")


def said(mount: Mount, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", "--mount", str(mount.root), *words]) == 0
    return capsys.readouterr().out


def test_each_run_is_scored_with_its_own_references(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    references = [f"北京 {i} 是中国的首都 END" for i in range(12)]
    whole, cut = answered(references, references), answered(references, references)
    for item in cut:
        item["generations"][0]["lm_postprocess"] = item["demonstration"].removesuffix(" END")
    write_run(mount, "whole", {9: whole})
    write_run(mount, "cut", {9: cut}, stop=[" END"])
    for item, text in zip(cut, references, strict=True):
        item["reference"] = text.removesuffix(" END")
    write_run(mount, "kept", {9: cut})
    found = compared(mount, "whole", "cut", "kept")
    values = {metric.name: metric.values for metric in found.metrics}
    assert values["exact_match"] == (1, 1, 1)
    assert values["bleu"] == pytest.approx((100, 100, 100))  # by sacrebleu's zh
    assert values["rougeL"] == (None, None, None)
    assert {one.result(1) for one in found.pairs.pairs} == {TIE}
    assert found.main.name == "exact_match"
    assert "have identical predictions on all records" in said(mount, capsys, "cut", "kept")
    in_json(found)
    render(page(found))


def test_golden_output(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    write_both(mount)
    assert said(mount, capsys, "a", "b") == (GOLDEN / "compare_texts.txt").read_text()
    assert said(mount, capsys, "c", "d") == (GOLDEN / "compare_scores.txt").read_text()


def test_json_has_the_printed_numbers(
    mount: Mount, capsys: pytest.CaptureFixture[str], few: int
) -> None:
    write_both(mount)
    file = mount.root / "numbers.json"
    told = said(mount, capsys, "a", "b", "--json", str(file))
    numbers = json.loads(said(mount, capsys, "a", "b", "--json", "-"))
    assert json.loads(file.read_text()) == numbers
    assert numbers["verdicts"][0] in told
    for name, metric in numbers["metrics"].items():
        row = next(line.split() for line in told.splitlines() if line.startswith(f"{name} "))
        values = [metric["values"]["a"], metric["values"]["b"]]
        ends = metric["differences"]["b"]["ci95"] or []
        shown = [float(cell) for cell in row[1:] if cell not in ("to", "better", "worse")]
        difference = metric["differences"]["b"]["difference"]
        assert shown == pytest.approx([*values, difference, *ends], abs=6e-3), name
    assert numbers["records_against_the_first"] == {"b": {"won": 3, "lost": 8, "even": 1}}
    assert numbers["job_fields"] == {"learning_rate": {"a": 1e-3, "b": 1e-4}}
    assert numbers["curves"]["train_loss"]["a"] == [[1, 2.0], [2, 4 / 3], [3, 1.0], [4, 0.8]]
    assert str(mount.root) not in json.dumps(numbers)


def test_the_page_has_every_record(mount: Mount, few: int) -> None:
    write_both(mount)
    made = page(compared(mount, "a", "b", "b@0"))
    tables = [b for section in made.sections for b in section.blocks if isinstance(b, Table)]
    assert tables[1].rows == [["learning_rate", "0.001", "0.0001"]]
    (items,) = (b for section in made.sections for b in section.blocks if isinstance(b, Items))
    assert items.numbers == ["b@9 - a", "b@0 - a"]
    assert [item.place for item in items.items] == list(range(12))
    london = items.items[2]
    assert [(one.by, one.text) for one in london.predictions] == [
        ("a", "Paris"), ("b@9", "London"), ("b@0", "?"),
    ]  # fmt: skip
    assert (london.numbers, london.tags) == ([-1, -1], ["b@9 loss", "b@0 loss"])
    assert "b@9, b@0 vs a" in render(made)
    file = mount.root / "page.html"
    assert main(["compare", "--mount", str(mount.root), "c", "d", "--html", str(file)]) == 0
    assert "d vs c" in file.read_text()


def test_a_terminal_without_utf_8(mount: Mount, few: int, monkeypatch: Any) -> None:
    write_run(mount, "a", {1: answered(["é"] * 12), 2: answered(["\ud800"] * 12)})
    for encoding, drawn in (("ascii", False), ("utf-8", True)):
        bytes_written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_written, encoding))
        compare(mount, ["a"], None, None)
        sys.stdout.flush()
        assert ("█" in bytes_written.getvalue().decode(encoding)) is drawn


def test_invalid_output_paths_are_reported_first(
    mount: Mount, capsys: pytest.CaptureFixture[str]
) -> None:
    write_both(mount)
    words = ["compare", "--mount", str(mount.root), "a", "nobody", "--html", "/no/where.html"]
    words += ["--json", str(mount.models)]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"run 'nobody': does not exist (expected a run in {mount.models}). "
        "Hint: use one of a, b, c, d.\n"
        "--html /no/where.html: its folder does not exist (expected a file path). "
        "Hint: correct the path.\n"
        f"--json {mount.models}: a folder (expected a file path). "
        "Hint: correct the path.\n(3 problems in all)\n"
    )


def test_sparklines() -> None:
    def lines(**series: Sequence[tuple[float, float]]) -> dict[str, str]:
        return sparklines(Chart("loss", "step", [Series(*one) for one in series.items()]))

    falling = [(float(step), 8.0 - step) for step in range(8)]
    assert lines(a=falling[::7], b=falling[:4], c=[]) == {"a": "█▇▆▅▄▃▂▁", "b": "█▇▆▅    "}
    assert lines(a=[(0, 1000.0), (1, 1.0)])["a"] == "█▆▃▁"
    assert lines(a=[(3, 1.0)]) == {"a": "▁▁"}


LIGHT = """
import json, sys
from workflow.cli.main import main
try:
    main(["compare", "-h"])
except SystemExit:
    print(json.dumps(sorted({"numpy", "torch"} & set(sys.modules))))
main(["compare", "--mount", sys.argv[1], "c", "d", "--html", sys.argv[1] + "/page.html"])
print(json.dumps(sorted({"torch", "transformers"} & set(sys.modules))))
"""


def test_compare_imports_no_torch(mount: Mount) -> None:
    write_both(mount)
    command = [sys.executable, "-c", LIGHT, str(mount.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("[]\n") == 2
    assert done.stdout.endswith("[]\n")
