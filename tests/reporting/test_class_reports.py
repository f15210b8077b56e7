"""Runs of clf with several classes: reports, comparisons and trackers of their predictions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import classified, write_run
from open_pages import MARKS, WIDTHS, Opened, opened_browser
from playwright.sync_api import Browser
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from workflow.config.contradictions import contradictions
from workflow.config.request import JobRequest
from workflow.config.task_specs import CLASSES, TASK_SPECS, task_of
from workflow.core.errors import BadInput
from workflow.core.tables import as_lines
from workflow.metrics import bootstrap
from workflow.metrics.classes import class_metrics, class_points, pair_metrics
from workflow.reporting.compare import compare
from workflow.reporting.compare.comparison import Comparison, compare_named
from workflow.reporting.compare.html import page
from workflow.reporting.compare.pairing import LOSS, TIE, WIN
from workflow.reporting.compare.selectors import find_named
from workflow.reporting.compare.terminal import describe
from workflow.reporting.eval_table import metrics_table
from workflow.reporting.outputs import Classes, outputs_of
from workflow.reporting.report.blocks import Charts, Items, Section, Table, Text
from workflow.reporting.report.html import render
from workflow.reporting.report.run import page_of, write_report
from workflow.reporting.report.summary import own_metrics
from workflow.reporting.trackers.base import Start, numbers_of
from workflow.reporting.trackers.tensorboard import FOLDER, TensorBoard
from workflow.runs.mount import Mount
from workflow.runs.predictions import PastEvaluation, prediction_files

NAMES = ["a", "b", "tie"]
SPEC = {"task": "clf", "classes": NAMES, "target_min": 0.0, "target_max": 1.0}
EVIL = "</script><script>document.title = 'x'</script>"


def single(text: str, label: Any, *given: float) -> dict[str, Any]:
    record = {"input": text} | ({} if label is None else {"label": label})
    return classified(record, NAMES, given or None)


def judged(text: str, label: Any, given: list[float], swapped: list[float]) -> dict[str, Any]:
    """A pair of answers, or of a chosen and a rejected one if `label` is None."""
    if label is None:
        record = {"prompt": text, "chosen": "good", "rejected": "bad"}
    else:
        record = {"prompt": text, "response_a": "one", "response_b": "two", "label": label}
    item = classified(record, NAMES, given, swapped)
    return item | ({"chosen_as": "a"} if label is None else {})


def drawn(records: int = 60, seed: int = 0, skill: float = 0.4) -> list[dict[str, Any]]:
    """Pairs with unequal labels, some of them maps."""
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(9).choice(3, records, p=[0.35, 0.25, 0.4])
    items = []
    for i, label in enumerate(labels):
        shares = np.full((2, 3), skill) * np.eye(3)[label]
        shares += (1 - skill) * generator.dirichlet(np.ones(3), 2)
        soft = {"a": 0.25, "b": 0.0, "tie": 0.75}
        found = judged(f"which is {i}?", NAMES[label], *shares.tolist())
        if i % 10 == 9:
            found["orig_d"]["label"] = soft
        items.append(found)
    return items


def measured(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The metrics that an evaluation of these items logs."""
    probabilities, targets = arrays(items)
    orders = [np.array([item[key] for item in items]) for key in ("logits", "logits_swapped")]
    metrics = class_metrics(probabilities, targets, NAMES)
    return {"loss": metrics["log_loss"], **metrics, **pair_metrics(*orders, NAMES)}


def arrays(items: list[dict[str, Any]]) -> tuple[Any, Any]:
    labels = [item["orig_d"]["label"] for item in items]
    maps = [label if isinstance(label, dict) else {label: 1.0} for label in labels]
    return tuple(
        np.array([[shares.get(name, 0.0) for name in NAMES] for shares in column])
        for column in ([item["pred_probs"] for item in items], maps)
    )


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    return 40


def pair_run(folder: Path, *seeds: int, **spec: Any) -> Path:
    """A run with an evaluation for each seed."""
    found = {4 * i: drawn(seed=seed) for i, seed in enumerate(seeds)}
    evals = {step: (measured(items), items) for step, items in found.items()}
    return write_run(folder, SPEC | spec, evals, losses=[2.0, 1.0])


def blocks_of(run: Path, title: str) -> list[Any]:
    (section,) = [one for one in page_of(run).sections if one.title == title]
    assert isinstance(section, Section)
    return list(section.blocks)


# --- the task ------------------------------------------------------------------------------------


def test_a_job_with_classes_has_a_task_of_its_own() -> None:
    assert task_of(SPEC) is CLASSES
    assert (CLASSES.name, CLASSES.source_key, CLASSES.answer_key) == ("clf", "input", "label")
    for binary in ({"task": "clf"}, {"task": "clf", "classes": []}):
        assert task_of(binary) is TASK_SPECS["clf"]
    assert task_of({"task": "seq2seq", "classes": NAMES}) is TASK_SPECS["seq2seq"]
    assert prediction_files(SPEC, 3) == ("checkpoint-3-preds.json", "preds.json")
    assert isinstance(outputs_of(SPEC), Classes)


def test_both_kinds_of_clf_offer_their_metrics_until_the_data_are_known() -> None:
    for task, metric, problems in (
        ("clf", "macro_f1", 0),
        ("clf", "auc", 0),
        ("seq2seq", "auc", 1),
    ):
        flags = TASK_SPECS[task].defaults | {"metric_for_best_model": metric}
        job = JobRequest(task=task, model_init_name="m", data_name="d", **flags)
        assert len(list(contradictions(job))) == problems


# --- the report ----------------------------------------------------------------------------------


def test_the_metrics_table_has_the_values_of_chance(tmp_path: Path) -> None:
    table, everything = blocks_of(pair_run(tmp_path / "run", 0, 1), "Metrics")
    metrics = measured(drawn(seed=1))
    assert table.head == ["metric", "step 0", "best", "last (step 4)", "chance"]
    assert [row[0] for row in table.rows] == [
        "loss ↓", "accuracy", "macro_f1", "log_loss ↓", "swap_consistency", "first_place_share",
    ]  # fmt: skip
    by_name = {row[0]: row for row in table.rows}
    assert by_name["accuracy"][-1] == f"{metrics['majority_accuracy']:.4g}"
    assert by_name["log_loss ↓"][-1] == f"{metrics['frequencies_log_loss']:.4g}"
    assert by_name["first_place_share"][2:] == [
        "–", f"{metrics['first_place_share']:.4g}", "–"
    ]  # fmt: skip
    assert {"precision/a", "f1/tie", "brier ↓", "majority_accuracy"} <= {
        row[0] for row in everything.rows
    }
    (charts,) = [b for b in blocks_of(tmp_path / "run", "Learning curves") if b.folded]
    assert {"precision", "recall", "f1"} <= {chart.title for chart in charts.charts}


def test_no_metric_of_classes_is_taken_for_a_users_own() -> None:
    line = {"loss": 1.0, **measured(drawn()), "mine": 2.0, "eval_seconds": 1.0}
    evaluation = PastEvaluation(0, line, Path("none"))
    assert own_metrics(SPEC | {"metric": "own.py:mine"}, [evaluation]) == ["mine"]


def test_the_confusion_matrix_and_the_baseline(tmp_path: Path) -> None:
    items = [
        single("1", "a", 0.6, 0.3, 0.1),
        single("2", "a", 0.2, 0.7, 0.1),
        single("3", {"a": 0.8, "tie": 0.2}, 0.9, 0.1, 0.0),
        single("4", "b", 0.0, 1.0, 0.0),
        single("5", "b"),
        single("6", None, 0.6, 0.3, 0.1),
    ]
    run = write_run(tmp_path / "run", SPEC, {0: ({"loss": 1.0}, items)})
    text, table, charts, records = blocks_of(run, "Classes")
    assert isinstance(text, Text)
    assert text.lines == [
        "Labels of 4 records: a 75.0%, b 25.0%, tie 0.0%. Majority class a: accuracy 0.75."
    ]
    assert isinstance(table, Table)
    assert [table.head, *table.rows] == [
        ["label", "a", "b", "tie", "records"],
        ["a", "2\n66.7%", "1\n33.3%", "0", "3"],
        ["b", "0", "1\n100.0%", "0", "1"],
        ["tie", "0", "0", "0", "0"],
    ]
    assert isinstance(charts, Charts)
    accuracy = charts.charts[0].series[0]
    assert accuracy.points == [(0.6, 1.0), (0.7, 0.0), (0.9, 0.8), (1.0, 1.0)]
    assert isinstance(records, Items)
    assert [list(item.tags) for item in records.items] == [
        ["right"], ["wrong"], ["right"], ["right"], [], []
    ]  # fmt: skip
    assert [item.predictions[0].text for item in records.items if item.predictions] == [
        "a 0.60, b 0.30, tie 0.10", "b 0.70, a 0.20, tie 0.10", "a 0.90, b 0.10", "b",
        "a 0.60, b 0.30, tie 0.10",
    ]  # fmt: skip
    assert [item.expected for item in records.items] == [
        "a", "a", "a 0.80, tie 0.20", "b", "b", None
    ]  # fmt: skip
    assert records.items[4].facts == ["logits not finite"]
    assert [item.numbers[0] for item in records.items] == [
        pytest.approx(0.6), pytest.approx(0.2), pytest.approx(0.8), 1.0, None, None
    ]  # fmt: skip
    assert records.begin == "probability of the label, lowest first"
    assert list(records.tags) == ["wrong", "right"]
    assert "6 records, 5 with a label" in records.note


def test_the_reliability_chart_agrees_with_the_metric(tmp_path: Path) -> None:
    items = drawn(300)
    run = write_run(tmp_path / "run", SPEC, {0: ({"loss": 1.0}, items)})
    ((chart,),) = [b.charts for b in blocks_of(run, "Classes") if isinstance(b, Charts)]
    accuracies, shares, _ = chart.series
    gaps = [abs(mean - right) for mean, right in accuracies.points]
    ece = class_points(*arrays(items), NAMES)["ece"]
    assert np.dot([share for _, share in shares.points], gaps) == pytest.approx(ece)


def test_pairs_show_both_answers_and_both_orders(tmp_path: Path) -> None:
    before = [
        judged("which?", "a", [1, 0, 0], [1, 0, 0]),
        judged("so?", None, [1, 0, 0], [1, 0, 0]),
    ]
    now = [
        judged("which?", "a", [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]),
        judged("so?", None, [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]),
    ]
    evals = {0: ({"loss": 1.0}, before), 4: ({"loss": 1.0}, now)}
    run = write_run(tmp_path / "run", SPEC, evals)
    (records,) = [block for block in blocks_of(run, "Classes") if isinstance(block, Items)]
    first, second = records.items
    assert first.prompt == "which?\n\n[a] one\n\n[b] two"
    assert first.tags == ["wrong", "changed", "inconsistent"]
    assert first.facts == ["a first: a, b first: b"]
    assert [(p.by, p.text) for p in first.predictions] == [
        ("prediction", "b 0.60, a 0.30, tie 0.10"), ("step 0", "a")
    ]  # fmt: skip
    assert second.prompt == "so?\n\n[a] good\n\n[b] bad"
    assert (second.expected, second.tags) == ("a", ["right"])
    assert list(records.tags) == ["changed", "wrong", "right", "inconsistent"]


def test_many_classes_fit_the_page(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(30)]
    shares = np.full(30, 0.01)
    shares[7] += 0.7
    items = [classified({"input": f"{i}", "label": names[i % 30]}, names, shares.tolist())
             for i in range(45)]  # fmt: skip
    run = write_run(tmp_path / "run", SPEC | {"classes": names}, {0: ({"loss": 1.0}, items)})
    text, table, _, records = blocks_of(run, "Classes")
    assert "and 25 more" in text.lines[0]
    assert len(table.rows) == 20
    assert "The 20 most frequent of 30 labels" in table.note
    assert records.items[0].predictions[0].text == (
        "class 7 0.71, class 0 0.01, class 1 0.01, class 2 0.01, class 3 0.01"
    )


def test_a_report_without_labels_lists_the_predictions(tmp_path: Path) -> None:
    items = [single("1", None, 0.6, 0.3, 0.1), single("2", None)]
    run = write_run(tmp_path / "run", SPEC, {0: ({"eval_seconds": 1.0}, items)})
    (records,) = blocks_of(run, "Classes")
    assert records.begin == "probability of the prediction, lowest first"
    assert page_of(run).verdict == ["No eval record has a label: no metrics."]
    assert "could not be built" not in render(page_of(run))


# --- comparisons ---------------------------------------------------------------------------------


def compared(mount: Mount, *words: str) -> Comparison:
    return compare_named(find_named(mount, words))


def test_comparisons_have_paired_intervals(mount: Mount, few: int) -> None:
    pair_run(mount.models / "x", 0)
    pair_run(mount.models / "y", 1, seed=3)
    found = compared(mount, "x", "y")
    assert found.main.name == "accuracy"
    by_name = {metric.name: metric for metric in found.metrics}
    pairs = sorted(found.pairs.pairs, key=lambda pair: pair.key)
    targets = np.array([pair.expected.probabilities for pair in pairs])
    generator, differences = np.random.default_rng(0), {}
    for _ in range(few):
        rows = generator.integers(len(pairs), size=len(pairs))
        base, other = (
            class_points(
                np.array([pairs[i].predictions[j].probabilities for i in rows]),
                targets[rows], NAMES,
            )
            for j in (0, 1)
        )  # fmt: skip
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece"):
            differences.setdefault(name, []).append(other[name] - base[name])
    for name, values in differences.items():
        assert by_name[name].intervals[0] == pytest.approx(np.percentile(values, [2.5, 97.5]))
        assert by_name[name].values == pytest.approx(
            [class_points(*arrays(drawn(seed=seed)), NAMES)[name] for seed in (0, 1)]
        )
    assert not by_name["majority_accuracy"].has_intervals
    assert by_name["swap_consistency"].values[0] == measured(drawn())["swap_consistency"]
    json.dumps(found.as_json(), allow_nan=False)


def test_a_win_is_a_higher_probability_of_the_label(mount: Mount, few: int) -> None:
    for name, shares in (
        ("x", [(0.5, 0.4, 0.1), (0.5, 0.4, 0.1), (0.50, 0.49, 0.01), (0.2, 0.2, 0.6)]),
        ("y", [(0.6, 0.3, 0.1), (0.505, 0.4, 0.095), (0.495, 0.5, 0.005), (0.6, 0.2, 0.2)]),
    ):
        labels = ["a", "a", "a", {"a": 0.2, "tie": 0.8}]
        items = [single(f"{i}", label, *row)
                 for i, (label, row) in enumerate(zip(labels, shares, strict=True))]  # fmt: skip
        write_run(mount.models / name, SPEC, {4: ({"loss": 1.0}, items)})
    found = compared(mount, "x", "y")
    assert [pair.result(1) for pair in found.pairs.pairs] == [WIN, TIE, LOSS, LOSS]
    assert [pair.scores for pair in found.pairs.pairs][3] == pytest.approx((0.8, 0.4))
    text = "\n".join(as_lines(describe(found, True)))
    assert "probability of the label (of a map: the share in common)" in text
    assert "b 0.50, a 0.49, tie 0.01" in text or "b 0.50, a 0.49" in text
    assert "precision/a" not in text
    shown = page(found)
    html = render(shown)
    (metrics,) = [one for one in shown.sections if one.title == "Metrics"]
    assert "precision/a" in [row[0] for row in metrics.blocks[0].rows]
    (items,) = [b for one in shown.sections for b in one.blocks if isinstance(b, Items)]
    assert items.items[3].expected == "tie 0.80, a 0.20"
    assert [p.text for p in items.items[0].predictions] == [
        "a 0.50, b 0.40, tie 0.10", "a 0.60, b 0.30, tie 0.10"
    ]  # fmt: skip
    assert html


def test_a_run_with_itself_and_with_gaps(mount: Mount, few: int) -> None:
    items = [single(f"{i}", "a", 0.5, 0.4, 0.1) for i in range(12)]
    write_run(mount.models / "x", SPEC, {4: ({"loss": 1.0}, items)})
    write_run(mount.models / "y", SPEC, {4: ({"loss": 1.0}, [*items[:11], single("11", "a")])})
    found = compared(mount, "x", "y")
    assert found.pairs.left_out == (1, 1)
    assert found.verdicts() == [
        "y and x have identical predictions on the 11 records with labels and predictions"
    ]


def test_runs_with_other_classes_are_refused(mount: Mount) -> None:
    pair_run(mount.models / "x", 0)
    pair_run(mount.models / "other", 0, classes=["b", "a", "tie"])
    scores = {"orig_d": {"input": "1", "target": 1}, "pred_score": 0.5, "logits": [0.0, 0.0]}
    write_run(mount.models / "binary", {"task": "clf"}, {4: ({"loss": 1.0}, [scores])})
    with pytest.raises(BadInput) as caught:
        find_named(mount, ["x", "other", "binary"])
    assert str(caught.value) == (
        "run other: classes 'b, a, tie' (expected classes 'a, b, tie', as in x). "
        "Hint: compare runs with the same classes in the same order.\n"
        "run binary: scores (expected classes 'a, b, tie', as in x). "
        "Hint: compare runs with the same classes in the same order.\n"
        "(2 problems in all)"
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"pred_label": "c"},
        {"pred_probs": {"a": 0.5, "c": 0.5}},
        {"pred_probs": {"a": 0.5}},
        {"pred_probs": {"a": 1.5, "b": -0.5}},
        {"pred_probs": [0.2, 0.7, 0.1]},
        {"pred_probs": {"a": float("nan")}},
        {"orig_d": {"input": "x", "label": "c"}},
        {"orig_d": {"input": "x", "label": ["a"]}},
        {"orig_d": {"prompt": "x", "response_a": "y", "label": "a"}},
        {"orig_d": {"prompt": "x", "response_a": "y", "response_b": 3, "label": "a"}},
    ],
)
def test_a_malformed_record_is_reported(mount: Mount, damage: dict[str, Any]) -> None:
    items = [single("x", "a", 0.5, 0.4, 0.1)]
    write_run(mount.models / "x", SPEC, {4: ({"loss": 1.0}, items)})
    write_run(mount.models / "y", SPEC, {4: ({"loss": 1.0}, [items[0] | damage])})
    with pytest.raises(BadInput, match="a malformed record"):
        compared(mount, "x", "y")


# --- logs and trackers ---------------------------------------------------------------------------


def test_the_table_of_an_evaluation_shows_few_metrics() -> None:
    now = {"step": 4, **measured(drawn(seed=1))}
    earlier = [{"step": 0, **measured(drawn())}]
    lines = as_lines(metrics_table(earlier, now, CLASSES.shown_metrics, 4))
    assert [line.split()[0] for line in lines[2:]] == list(CLASSES.shown_metrics)
    assert max(map(len, lines)) <= 80
    (chance,) = [line.split() for line in lines if "majority" in line]
    assert chance == ["majority_accuracy", *[f"{now['majority_accuracy']:.4g}"] * 2]  # no best one


def test_tensorboard_reads_names_with_slashes(tmp_path: Path) -> None:
    metrics = measured(drawn()) | {"recall/not sure, über/all": 0.5, "time": 1e9}
    tracker = TensorBoard(Start(tmp_path, SPEC, 0))
    tracker.log_evaluation(4, metrics, [])
    tracker.close()
    reader = EventAccumulator(str(tmp_path / FOLDER))
    reader.Reload()
    numbers = numbers_of(metrics, "eval")
    assert set(reader.Tags()["scalars"]) == set(numbers)
    assert {"eval/precision/tie", "eval/recall/not sure, über/all"} <= set(numbers)
    assert "eval_ci95/macro_f1_low" in numbers


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


def opened_pages(folder: Path) -> dict[str, Path]:
    names = ["a", "b", EVIL]
    items = [
        judged(f"which is {i}? {EVIL}", None if i % 2 else "b", [0.5, 0.3, 0.2], [0.2, 0.5, 0.3])
        for i in range(40)
    ]
    for item in items:
        item["pred_probs"][EVIL] = item["pred_probs"].pop("tie")
    pair_run(folder / "models" / "y", 2, 3)
    evals = {step: (measured(drawn()), items) for step in (0, 4)}
    evil = write_run(folder / "models" / "evil", SPEC | {"classes": names}, evals)
    run = pair_run(folder / "models" / "run", 0, 1)
    page = folder / "comparison.html"
    assert compare(Mount(folder), ["run", "y"], str(page), "-") == 0
    return {"run": write_report(run), "evil": write_report(evil), "comparison": page}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@MARKS[0]
@MARKS[1]
def test_the_pages_in_a_browser(browser: Browser, tmp_path: Path, width: int) -> None:
    for name, path in opened_pages(tmp_path).items():
        opened = Opened(browser, path, width)
        assert opened.said == [path.as_uri()]
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        assert opened.page.locator("figure svg").count() > 2
        assert opened.page.title() == {"comparison": "y vs run"}.get(name, name)
        assert "could not be built" not in opened.page.inner_text("body")
        if name == "run":
            page = opened.page
            assert "Majority class" in page.inner_text("body")
            page.get_by_label("filter by tag").select_option("inconsistent")
            assert "inconsistent" in opened.texts("article h3")[0]
            assert "[a] one" in opened.texts("article dd")[0]
        opened.page.close()
