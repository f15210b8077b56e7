"""The report of a run: its content, and that no text in it can run as a script."""

import base64
import dataclasses
import gzip
import hashlib
import json
import logging
import random
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import answered, scored, write_run

from workflow.cli.main import main
from workflow.config.parse import parse_command_line
from workflow.config.task_specs import TASK_SPECS
from workflow.core.files import _partial_path
from workflow.core.tables import as_lines
from workflow.metrics.scores import score_metrics
from workflow.reporting.eval_table import metrics_table
from workflow.reporting.outputs import Scores, Texts
from workflow.reporting.report import records
from workflow.reporting.report.blocks import (
    Charts,
    Item,
    Items,
    Page,
    Prediction,
    Section,
    Table,
    Text,
)
from workflow.reporting.report.curves import curves, smoothed, thinned
from workflow.reporting.report.html import render
from workflow.reporting.report.job import command_again
from workflow.reporting.report.run import keep_report, page_of, write_report
from workflow.reporting.report.scores import baseline, score_charts, scores_of
from workflow.reporting.report.summary import all_metrics, sentences, summary
from workflow.runs.predictions import PastEvaluation, evaluations, spread

SEQ2SEQ = {"task": "seq2seq", "temperature": 0.001, "n_samples": 1}
CLF = {"task": "clf", "target_min": 0.0, "target_max": 1.0}
EVIL = "</script><script>document.title = 'run'</script><img src=x onerror=alert(1)>\u2028<!--"


def seq2seq_run(folder: Path) -> Path:
    before = [answered("one", "1", "2"), answered("two", "2 3", "2"), answered("three", None, "x")]
    after = [answered("one", "1", "1"), answered("two", "2 3", "2"), answered("three", None, "y")]
    metrics = {"loss": 2.0, "exact_match": 0.0, "exact_match_ci95": [0.0, 0.25], "bleu": None}
    better = {"loss": 1.0, "exact_match": 0.5, "exact_match_ci95": [0.125, 0.75], "bleu": None}
    return write_run(
        folder, SEQ2SEQ, {0: (metrics, before), 4: (better, after)}, losses=[4.0, 3.0, 2.0, 1.0]
    )


def made(*values: float | None, name: str = "loss") -> list[PastEvaluation]:
    """Evaluations at steps 0, 10, 20 …."""
    return [
        PastEvaluation(10 * i, {"step": 10 * i, name: value}, Path("none"))
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "No evaluation yet."),
        ([None], "No eval record has a completion: no metrics."),
        ([2.0], "loss: 2 at step 0."),
        ([2.0, 1.0, 1.5], "Best loss: 1 at step 10; first: 2 at step 0; last: 1.5 at step 20."),
        ([2.0, 1.0], "Best loss: 1 at step 10 (last evaluation); first: 2 at step 0."),
        ([1.0, 2.0], "Best loss: 1 at step 0 (first evaluation); last: 2 at step 10."),
    ],
)  # fmt: skip
def test_the_verdict(values: list[float | None], told: str) -> None:
    assert sentences({"metric_for_best_model": "loss"}, {}, made(*values)) == [told]


def test_the_verdict_if_higher_is_better() -> None:
    spec = {"metric_for_best_model": "auc", "task": "clf"}
    (told,) = sentences(spec, {}, made(0.5, 0.75, 0.5, name="auc"))
    assert told.startswith("Best auc: 0.75 at step 10; first: 0.5 at step 0;")


def test_the_verdict_covers_loss_quality_and_state() -> None:
    lines = [
        {"loss": 1.0, "rougeL": 0.1, "exact_match": 0.0},
        {"loss": 2.0, "rougeL": 0.5, "rougeL_ci95": [0.25, 0.75], "exact_match": 0.01},
    ]
    evals = [PastEvaluation(step, line, Path("none")) for step, line in enumerate(lines)]
    status = {"state": "failed", "step": 3, "error": "no more"}
    assert sentences({}, status, evals) == [
        "Failed at step 3: no more",
        "Best loss: 1 at step 0 (first evaluation); last: 2 at step 1.",
        "Best rougeL: 0.5 (95% CI 0.25 to 0.75) at step 1 (last evaluation); first: 0.1 at step 0.",
    ]
    assert sentences({"no_train": True}, {"state": "done"}, evals[:1]) == [
        "rougeL: 0.1 at step 0.", "loss: 1 at step 0.",
    ]  # fmt: skip
    saved = sentences({}, {"state": "saved", "step": 7}, [])
    assert saved[0] == "Stopped at step 7; rerun the same command to resume."
    lines[1]["exact_match"] = 0.5
    assert "exact_match: 0.5" in sentences({}, {}, evals)[1]


def test_the_summary_has_first_best_and_last_values(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    spec = SEQ2SEQ | {"metric_for_best_model": "exact_match"}
    (table,) = summary(spec, evaluations(run))
    assert table.head == ["metric", "step 0", "best", "last (step 4)"]
    assert table.rows == [
        ["loss ↓", "2", "1 at step 4", "1"],
        ["exact_match", "0\n0 to 0.25", "0.5 at step 4\n0.125 to 0.75", "0.5\n0.125 to 0.75"],
    ]
    assert table.strong == {1}
    assert table.note == (
        "↓: lower is better. Below each value: 95% bootstrap confidence interval over eval records."
    )


def test_a_users_metric_is_shown_and_not_taken_for_an_interval() -> None:
    metrics = {"loss": 1.0, "own": 0.5, "own_ci95": 0.25, "rouge1": 0.5, "rougeL_best_of_n": 0.5}
    evals = [PastEvaluation(step, {"step": step, **metrics}, Path("none")) for step in (0, 4)]
    (table,) = summary({"task": "seq2seq", "metric": "m.py:own"}, evals)
    assert table.rows == [
        ["loss ↓", "1", "1 at step 0", "1"], ["own", "0.5", "–", "0.5"],
        ["own_ci95", "0.25", "–", "0.25"],
    ]  # fmt: skip
    assert (
        summary({"task": "seq2seq"}, [PastEvaluation(0, {"mean_length": 2.0}, Path("none"))]) == []
    )
    assert as_lines(metrics_table([], {"step": 4, **metrics}, (), None, ["own"]))[-1] == "own  0.5"
    series = [
        s
        for block in curves(TASK_SPECS["seq2seq"], [], evals)
        for c in block.charts
        for s in c.series
    ]
    assert not any(one.low_high for one in series)


def test_a_thinned_curve_keeps_its_spikes_and_its_end() -> None:
    points = [(float(i), random.Random(i).random()) for i in range(1, 1201)]
    points[700], points[10] = (701.0, 99.0), (11.0, -99.0)
    found = thinned(points, most=400)
    assert 250 < len(found) <= 400
    assert found == sorted(set(found) & set(points))
    assert {points[700], points[10], points[-1]} <= set(found)
    assert thinned(points[:400], most=400) == points[:400]


def test_many_evaluations_are_thinned_evenly() -> None:
    evals = made(*(float(i) for i in range(1000)))
    assert [one.step for one in spread(evals, 4)] == [0, 3330, 6660, 9990]
    assert spread(evals[:4], 4) == evals[:4]
    (table,) = all_metrics(TASK_SPECS["seq2seq"], evals)
    assert (len(table.head), table.head[1], table.head[-1]) == (13, "step 9990", "step 0")


def test_smoothing_keeps_a_constant_and_follows_a_jump() -> None:
    assert [y for _, y in smoothed([(i, 3.0) for i in range(100)])] == pytest.approx([3.0] * 100)
    jump = [(i, 0.0 if i < 100 else 1.0) for i in range(200)]
    after = dict(smoothed(jump))
    assert after[99] == 0
    assert after[104] == pytest.approx(0.5, abs=0.01)  # a fortieth of 200 later


def test_every_metric_has_a_curve_and_related_metrics_share_a_chart() -> None:
    evals = [
        PastEvaluation(step, {"step": step, "time": 1.0, "loss": 1.0, "rougeL": 0.5, "rouge1": 0.5,
                          "mine": 7, "exact_match_best_of_n": 1.0, "rougeL_ci95": [0.25, 0.75],
                          "bleu_signature": "x"}, Path("none"))
        for step in (0, 5)
    ]  # fmt: skip
    logged = [{"step": 1, "loss": 3.0, "learning_rate": 0.5, "grad_norm": float("nan")}]
    first, others = curves(TASK_SPECS["seq2seq"], logged, evals)
    assert isinstance(first, Charts)
    assert [(c.title, [s.name for s in c.series]) for c in first.charts] == [
        ("loss", ["train", "eval"]), ("ROUGE", ["rougeL", "rouge1"]),
        ("learning rate", ["learning_rate"]),
    ]  # fmt: skip
    assert first.charts[1].series[0].low_high == [(0.25, 0.75)] * 2
    assert others.folded
    assert [(c.title, [s.name for s in c.series]) for c in others.charts] == [
        ("mine", ["mine"]), ("exact match over samples", ["exact_match_best_of_n"]),
    ]  # fmt: skip


def test_predictions_with_references_and_changes(tmp_path: Path) -> None:
    first, last = evaluations(seq2seq_run(tmp_path / "run"))
    found = records.record_list(Texts(SEQ2SEQ), last, first)
    assert found.items == [
        Item(0, "one", "1", [Prediction("prediction", "1", 1.0), Prediction("step 0", "2", 0.0)],
             ["logits: no -1.00, yes 0.50"], [1.0], ["changed", "right"]),
        Item(1, "two", "2 3", [Prediction("prediction", "2", 2 / 3)],
             ["logits: no -1.00, yes 0.50"], [2 / 3], ["wrong"]),
        Item(2, "three", None, [Prediction("prediction", "y"), Prediction("step 0", "x")],
             ["logits: no -1.00, yes 0.50"], [None], ["changed"]),
    ]  # fmt: skip
    assert found.begin == "changed first"
    assert found.note == (
        "Step 4: 3 records, 2 with a completion. All predictions are in "
        "temperature=0.00_n=1_step=4.json."
    )
    assert records.record_list(Texts(SEQ2SEQ), first, None).begin == "word F1, lowest first"


def test_references_are_shown_as_they_are_compared(tmp_path: Path) -> None:
    cut = answered("q", "<x> b END", "b") | {"reference": "b"}
    found = [answered("p", "a END of it", "a"), cut]
    run = write_run(tmp_path / "run", SEQ2SEQ | {"stop": [" END"]}, {0: ({"loss": None}, found)})
    items = records.record_list(Texts({"stop": [" END"]}), evaluations(run)[0], None).items
    assert [(item.expected, item.tags, item.numbers) for item in items] == [
        ("a", ["right"], [1.0]), ("b", ["right"], [1.0]),
    ]  # fmt: skip
    assert all("reference without special tokens" in item.facts[-1] for item in items)
    assert "expected='a', predictions=" in str(page_of(run))


def test_equal_samples_are_shown_once(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", SEQ2SEQ | {"n_samples": 3},
        {0: ({"loss": 1.0}, [answered("p", "a b", "a", "a b", "a")])},
    )  # fmt: skip
    (item,) = records.record_list(Texts(SEQ2SEQ), evaluations(run)[0], None).items
    assert [one.by for one in item.predictions] == ["2 of 3 samples", "1 of 3 samples"]
    assert item.numbers == [2 / 3, 1.0]


def test_scores_are_sorted_by_error(tmp_path: Path) -> None:
    spec = CLF | {"target_min": 1.0, "target_max": 5.0}
    run = write_run(
        tmp_path / "run", spec,
        {
            0: ({"loss": 1.0}, [scored("a", 5.0, 1.5), scored("b", 1.0, 2.0),
                                scored("c", None, 5.0)]),
            4: ({"loss": 1.0}, [scored("a", 5.0, 4.0), scored("b", 1.0, 4.0),
                                scored("c", None, None)]),
        },
    )  # fmt: skip
    first, last = evaluations(run)
    found = records.record_list(Scores(spec), last, first)
    assert found.begin == "error, highest first"
    assert [(item.prompt, item.numbers, item.tags) for item in found.items] == [
        ("a", [0.25, 4.0], ["changed"]), ("b", [0.75, 4.0], ["wrong", "changed"]),
        ("c", [None, None], []),
    ]  # fmt: skip
    assert found.items[0].facts == [
        "score 4", "target 5", "step 0: 1.5", "logits: no 0.00, yes 1.00",
    ]  # fmt: skip


def test_many_records_are_thinned_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_RECORDS", 10)
    items = [answered(f"p{i}", "a", "a") for i in range(35)]
    run = write_run(tmp_path / "run", SEQ2SEQ, {0: ({"loss": 1.0}, items)})
    found = records.record_list(Texts(SEQ2SEQ), evaluations(run)[0], None)
    assert [item.place for item in found.items] == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert found.note.startswith("Step 0: 35 records, 1 in 4 shown.")


def test_texts_are_truncated_to_keep_a_page_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_CHARACTERS", 2_000)
    long = Item(1, "p" * 100_000, "e", [Prediction("answer", "a" * 600, 0.5)])
    found = records.fit(Items([long], note="All."))
    (item,) = found.items
    assert item.prompt == "p" * 1_000 + "… (truncated)"
    assert (item.expected, item.predictions) == ("e", long.predictions)
    assert found.note == "All. Texts are truncated to 1,000 characters."
    short = Items([Item(1, "p", "e")])
    assert records.fit(short) == short
    many = records.fit(Items([Item(i, "p" * 300, "e") for i in range(50)], note="All."))
    assert [item.place for item in many.items] == [0, 3, 6, *range(9, 50, 3)]
    assert (
        many.note == "All. Texts are truncated to 100 characters. 1 in 3 of these records is shown."
    )


def drawn(count: int = 400) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 2, count)
    scores = np.clip(draw.normal(0.3 + 0.4 * targets, 0.25), 0, 1)
    return [scored("x", float(t), float(s)) for t, s in zip(targets, scores, strict=True)]


def test_the_charts_of_scores_agree_with_the_metrics(tmp_path: Path) -> None:
    items = drawn()
    run = write_run(tmp_path / "run", CLF, {0: ({"loss": 1.0}, items)})
    found = scores_of(evaluations(run)[0], Scores(CLF))
    metrics = score_metrics(found.scores, found.targets)
    histogram, roc, precision, reliability = score_charts(found)
    assert sum(y for one in histogram.series for _, y in one.points) == len(items)
    x, y = zip(*roc.series[0].points, strict=True)
    assert np.trapezoid(y, x) == pytest.approx(metrics["auc"], abs=0.005)
    recalls = [point[0] for point in precision.series[0].points]
    assert (recalls[0], recalls[-1]) == (0, 1)
    assert recalls == sorted(recalls)
    shares = [share for _, share in reliability.series[1].points]
    gaps = [abs(mean - target) for mean, target in reliability.series[0].points]
    assert np.dot(shares, gaps) == pytest.approx(metrics["ece"])


def test_undefined_charts_are_omitted(tmp_path: Path) -> None:
    for items, titles in (
        ([scored("x", None, None)], []),
        ([scored("x", None, 0.5)], ["scores"]),
        ([scored("x", 0.0, 0.5)], ["scores by class", "reliability diagram"]),
        (
            [scored("x", 1.0, 0.5)],
            ["scores by class", "precision-recall curve", "reliability diagram"],
        ),
    ):
        run = write_run(tmp_path / f"{titles}", CLF, {0: ({"loss": 1.0}, items)})
        charts = score_charts(scores_of(evaluations(run)[0], Scores(CLF)))
        assert [chart.title for chart in charts] == titles


def test_the_command_to_repeat_a_run_asks_for_the_same_job(tmp_path: Path) -> None:
    asked = ["--model_init_name", "a b", "--data", "x", "--stop", '["\\n", "; rm"]', "--max_steps",
             "7", "--lr_scheduler_type", "cosine_with_restarts", "--lr_scheduler_kwargs",
             '{"num_cycles": 2}', "--training_run_name", "r", "--seed", "5"]  # fmt: skip
    spec, _, problems = parse_command_line("seq2seq", "", asked)
    assert not problems
    as_written = json.loads(json.dumps(vars(spec)))
    command = command_again(tmp_path / "models" / "r", as_written)
    words = shlex.split(command)
    assert words[:4] == ["python3", "seq2seq.py", "--mount", str(tmp_path)]
    again, _, problems = parse_command_line("seq2seq", "", words[4:])
    assert not problems
    assert again == dataclasses.replace(spec, training_run_name="r_again")
    run = tmp_path / "models" / "group" / "r"
    assert command_again(run, as_written | {"flag_of_later": 1}) == (
        f"python3 seq2seq.py --mount {tmp_path} --config {run}/training_args.json "
        "--training_run_name group/r_again"
    )


def packed(html: str) -> dict[str, Any]:
    """The records of a page."""
    (text,) = re.findall(r'<script type="application/gzip">([^<]*)</script>', html)
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return content


def test_no_text_can_run_as_a_script() -> None:
    """With the text in every place of a page, the page's own script stays the only one."""
    answers = [Prediction(EVIL, EVIL, 0.5)]
    blocks = [
        Table([EVIL], [[EVIL]], note=EVIL, folded=EVIL),
        Text([EVIL]),
        Text([EVIL], code=True),
        *curves(TASK_SPECS["seq2seq"], [], made(1.0, 2.0, name=EVIL)),
        Items([Item(1, EVIL, EVIL, answers, [EVIL], [1.0], [EVIL])], EVIL, EVIL, [EVIL],
              {EVIL: EVIL}, EVIL, EVIL),
    ]  # fmt: skip
    html = render(Page(EVIL, EVIL, [EVIL], [Section(EVIL, blocks)], [EVIL]))
    opened = re.findall(r"<script[^>]*>", html)
    assert len(opened) == html.count("</script>") == 3
    assert "<img" not in html
    assert "http-equiv" in html
    (own,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert f"script-src &#39;sha256-{digest}&#39;" in policy
    assert "unsafe" not in policy
    answer = {"by": EVIL, "text": EVIL, "score": 0.5, "compared": True}
    assert packed(html)["items"] == [
        {"place": 1, "prompt": EVIL, "expected": EVIL, "predictions": [answer], "facts": [EVIL],
         "numbers": [1.0], "tags": [EVIL]},
    ]  # fmt: skip


def test_a_report_needs_no_network(tmp_path: Path) -> None:
    html = write_report(seq2seq_run(tmp_path / "run")).read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s\"'<>]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # SVG's namespace, which is not loaded
    assert len(html) < 60_000


def test_a_report_has_no_empty_sections(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    titles = [section.title for section in page_of(run).sections]
    assert titles == ["Metrics", "Learning curves", "Predictions", "Config"]
    (run / "temperature=0.00_n=1_step=4.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss"')  # incomplete line
    titles = [section.title for section in page_of(run).sections]
    assert titles == ["Metrics", "Learning curves", "Config"]


def test_a_report_that_fails_is_logged_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = seq2seq_run(tmp_path / "models" / "run")
    (run / "report.html").mkdir()
    with caplog.at_level(logging.WARNING, logger="workflow"):
        keep_report(run)
    assert caplog.messages == [
        f"could not update {run}/report.html (IsADirectoryError: [Errno 21] Is a directory: "
        f"'{_partial_path(run / 'report.html')}' -> '{run / 'report.html'}'). "
        f"Hint: run `python3 -m workflow report run --mount {tmp_path}`"
    ]
    assert not list(run.glob(".*"))


def test_a_damaged_file_affects_only_its_section(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    first, last = (run / f"temperature=0.00_n=1_step={step}.json" for step in (0, 4))
    first.write_text("[{", encoding="utf-8")
    (answers,) = (one.blocks for one in page_of(run).sections if one.title == "Predictions")
    assert [item.tags for item in answers[0].items] == [["right"], ["wrong"], []]
    last.write_text("[{", encoding="utf-8")
    (run / "audit.json").write_text('{"splits": 3}')
    told = {one.title: one.blocks[0] for one in page_of(run).sections}
    assert told["Predictions"] == Text([
        f"This section could not be built: BadInput: {last}: an incomplete or invalid JSON list "
        "(expected an intact file). Hint: restore it from a copy or create it again."
    ])  # fmt: skip
    assert told["Data"].lines[0].startswith("This section could not be built: ")
    assert isinstance(told["Metrics"], Table)
    for file in run.iterdir():
        file.write_bytes(b"\xff{")
    assert [one.title for one in page_of(run).sections] == ["Config"]


def test_severe_audit_warnings_are_shown_with_the_verdict(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    audit = {
        "splits": {}, "eval_records_in_train": {"count": 2, "examples": ["eval[0] 'one'"]},
        "eval_prompts_in_train": {"count": 2, "examples": []},
    }  # fmt: skip
    (run / "audit.json").write_text(json.dumps(audit))
    found = page_of(run)
    assert found.warnings == [
        "eval: 2 records also in train (train/eval overlap, inflates metrics). "
        "Hint: remove them from train or eval"
    ]
    (data,) = (one.blocks for one in found.sections if one.title == "Data")
    assert data[1].lines == [
        "eval: 2 records also in train (train/eval overlap, inflates metrics), e.g. eval[0] 'one'. "
        "Hint: remove them from train or eval"
    ]


def test_charts_use_the_target_range(tmp_path: Path) -> None:
    spec = CLF | {"target_min": 1.0, "target_max": 5.0}
    items = [scored("a", 5.0, 4.5), scored("b", 1.0, 1.5), scored("c", 3.0, 2.5)]
    run = write_run(tmp_path / "run", spec, {0: ({"loss": 1.0, "rmse": 1.0}, items)})
    found = scores_of(evaluations(run)[0], Scores(spec))
    histogram, *_, reliability = score_charts(found)
    assert histogram.x_range == reliability.y_range == (1.0, 5.0)
    assert histogram.note == "Number of records by score. Yes: target at least 3."
    assert [p for p in histogram.series[1].points if p[1]] == [
        (pytest.approx(2.4), 1), (pytest.approx(4.4), 1),
    ]  # fmt: skip
    assert reliability.series[0].points == [(1.5, 1.0), (2.5, 3.0), (4.5, 5.0)]
    assert baseline(found) == [
        "2 of 3 records with a target are yes (target at least 3). Majority-class baseline: "
        "accuracy 0.6667 (always yes)."
    ]
    (table,) = summary(spec, evaluations(run))
    assert [row[0] for row in table.rows] == ["loss ↓", "rmse ↓"]


def test_the_report_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = seq2seq_run(tmp_path / "models" / "group" / "run")
    assert main(["report", "group/run", "--mount", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", "other", "--mount", str(tmp_path)]) == 2
    assert main(["report", "../run", "--mount", str(tmp_path)]) == 2
    models = tmp_path / "models"
    assert capsys.readouterr().err.splitlines() == [
        f"run 'other': does not exist (expected a run in {models}). Hint: use e.g. group/run; "
        "`list` shows all.",
        "run ../run: outside of mount/models, hidden, not printable or longer than "
        f"120 bytes (expected a folder name inside {models}). Hint: choose another name.",
    ]
