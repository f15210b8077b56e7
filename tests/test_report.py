"""The report of a run: what it says, and that nothing in it can run as a script."""

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

from workflow.answers import Evaluation, evaluations
from workflow.command import parse_command_line
from workflow.launch.commands import main
from workflow.report import records
from workflow.report.blocks import Answer, Charts, Item, Items, Page, Section, Table, Text
from workflow.report.curves import curves, smoothed, thinned
from workflow.report.job import command_again
from workflow.report.page import render
from workflow.report.run import keep_report, page_of, write_report
from workflow.report.scores import score_charts, scores_of, unit_of
from workflow.report.verdict import sentences, summary
from workflow.score_metrics import score_metrics

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


def made(*values: float | None, name: str = "loss") -> list[Evaluation]:
    """Evaluations at steps 0, 10, 20 …."""
    return [
        Evaluation(10 * i, {"step": 10 * i, name: value}, Path("none"))
        for i, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "It has not been evaluated yet."),
        ([None], "No record has an answer to compare with, so there are no metrics."),
        ([2.0], "At step 0, loss is 2."),
        (
            [2.0, 1.0, 1.5],
            "The best loss is 1, at step 10, from 2 at step 0. The last, at step 20, has 1.5.",
        ),
        ([2.0, 1.0], "The best loss is 1, at step 10, from 2 at step 0; that is the last "
         "evaluation."),
        ([1.0, 2.0], "The best loss is 1, at step 0: no later evaluation is better."),
    ],
)  # fmt: skip
def test_the_verdict_in_a_sentence(values: list[float | None], told: str) -> None:
    assert sentences({"metric_for_best_model": "loss"}, made(*values)) == [told]


def test_the_greatest_is_best_where_more_is_better() -> None:
    (told,) = sentences({"metric_for_best_model": "auc"}, made(0.5, 0.75, 0.5, name="auc"))
    assert told.startswith("The best auc is 0.75, at step 10, from 0.5 at step 0.")


def test_a_summary_has_the_first_the_best_and_the_last(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    spec = SEQ2SEQ | {"metric_for_best_model": "exact_match"}
    table = summary(spec, evaluations(run))
    assert table.head == ["", "step 0", "best, at step", "last, step 4"]
    assert table.rows == [
        ["loss (lower is better)", "2", "1 at 4", "1"],
        ["exact_match", "0\n0 to 0.25", "0.5 at 4\n0.125 to 0.75", "0.5\n0.125 to 0.75"],
    ]
    assert table.strong == {1}


def test_a_thinned_curve_keeps_its_mean_and_its_end() -> None:
    points = [(float(i), random.Random(i).random()) for i in range(1, 1201)]
    found = thinned(points, most=400)
    assert len(found) == 400
    assert found[-1][0] == 1200
    assert np.mean([y for _, y in found]) == pytest.approx(np.mean([y for _, y in points]))
    assert thinned(points[:400], most=400) == points[:400]


def test_smoothing_leaves_a_constant_as_it_is_and_follows_a_step() -> None:
    assert [y for _, y in smoothed([(i, 3.0) for i in range(100)])] == pytest.approx([3.0] * 100)
    jump = [(i, 0.0 if i < 100 else 1.0) for i in range(200)]
    after = dict(smoothed(jump))
    assert after[99] == 0
    assert after[104] == pytest.approx(0.5, abs=0.01)  # a fortieth of 200 later


def test_every_metric_has_a_curve_and_those_of_a_kind_share_a_chart() -> None:
    evals = [
        Evaluation(step, {"step": step, "time": 1.0, "loss": 1.0, "rougeL": 0.5, "rouge1": 0.5,
                          "mine": 7, "exact_match_best_of_n": 1.0, "rougeL_ci95": [0.25, 0.75],
                          "bleu_signature": "x"}, Path("none"))
        for step in (0, 5)
    ]  # fmt: skip
    logged = [{"step": 1, "loss": 3.0, "learning_rate": 0.5, "grad_norm": float("nan")}]
    first, others = curves("seq2seq", logged, evals)
    assert isinstance(first, Charts)
    assert [(c.title, [s.name for s in c.series]) for c in first.charts] == [
        ("loss", ["train", "eval"]), ("ROUGE", ["rougeL", "rouge1"]),
        ("learning rate", ["learning_rate"]),
    ]  # fmt: skip
    assert first.charts[1].series[0].low_high == [(0.25, 0.75)] * 2
    assert others.folded
    assert [(c.title, [s.name for s in c.series]) for c in others.charts] == [
        ("mine", ["mine"]), ("exact match of several samples", ["exact_match_best_of_n"]),
    ]  # fmt: skip


def test_answers_beside_what_was_expected_and_what_has_changed(tmp_path: Path) -> None:
    first, last = evaluations(seq2seq_run(tmp_path / "run"))
    found = records.sampled(last, first)
    assert found.items == [
        Item(1, "one", "1", [Answer("answer", "1", 1.0), Answer("step 0", "2", 0.0)],
             ["no -1.00, yes 0.50"], [1.0], ["changed", "right"]),
        Item(2, "two", "2 3", [Answer("answer", "2", 2 / 3)], ["no -1.00, yes 0.50"], [2 / 3],
             ["wrong"]),
        Item(3, "three", None, [Answer("answer", "y"), Answer("step 0", "x")],
             ["no -1.00, yes 0.50"], [None], ["changed"]),
    ]  # fmt: skip
    assert found.begin == "changed first"
    assert found.note == "Step 4, all 3 records; whole in temperature=0.00_n=1_step=4.json."
    assert records.sampled(first, None).begin == "word F1, lowest first"


def test_equal_samples_are_told_once(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", SEQ2SEQ | {"n_samples": 3},
        {0: ({"loss": 1.0}, [answered("p", "a b", "a", "a b", "a")])},
    )  # fmt: skip
    (item,) = records.sampled(evaluations(run)[0], None).items
    assert [one.by for one in item.answers] == ["2 of 3 samples", "a sample"]
    assert item.numbers == [2 / 3, 1.0]


def test_scores_with_the_worst_mistakes_first(tmp_path: Path) -> None:
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
    found = records.scored(last, first, unit_of(spec))
    assert found.begin == "error, highest first"
    assert [(item.prompt, item.numbers, item.tags) for item in found.items] == [
        ("a", [0.25, 4.0], ["changed"]), ("b", [0.75, 4.0], ["wrong", "changed"]),
        ("c", [None, None], []),
    ]  # fmt: skip
    assert found.items[0].facts == [
        "score 4", "target 5", "at step 0 1.5", "logits 0.00 and 1.00",
    ]  # fmt: skip


def test_of_many_records_some_are_shown_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_RECORDS", 10)
    items = [answered(f"p{i}", "a", "a") for i in range(35)]
    run = write_run(tmp_path / "run", SEQ2SEQ, {0: ({"loss": 1.0}, items)})
    found = records.sampled(evaluations(run)[0], None)
    assert [item.place for item in found.items] == [1, 5, 9, 13, 17, 21, 25, 29, 33]
    assert found.note.startswith("Step 0, every 4th of 35 records;")


def test_texts_are_cut_so_that_a_page_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_CHARACTERS", 2_000)
    long = Item(1, "p" * 100_000, "e", [Answer("answer", "a" * 600, 0.5)])
    found = records.fit(Items([long], note="All."))
    (item,) = found.items
    assert item.prompt == "p" * 1_000 + "… (cut here)"
    assert (item.expected, item.answers) == ("e", long.answers)
    assert found.note == "All. Texts are cut after 1,000 characters."
    short = Items([Item(1, "p", "e")])
    assert records.fit(short) is short


def drawn(count: int = 400) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    targets = draw.integers(0, 2, count)
    scores = np.clip(draw.normal(0.3 + 0.4 * targets, 0.25), 0, 1)
    return [scored("x", float(t), float(s)) for t, s in zip(targets, scores, strict=True)]


def test_the_charts_of_scores_agree_with_the_metrics(tmp_path: Path) -> None:
    items = drawn()
    run = write_run(tmp_path / "run", CLF, {0: ({"loss": 1.0}, items)})
    found = scores_of(evaluations(run)[0], unit_of(CLF))
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


def test_charts_that_are_not_defined_are_left_out(tmp_path: Path) -> None:
    for items, titles in (
        ([scored("x", None, 0.5)], []),
        ([scored("x", 0.0, 0.5)], ["scores by class", "reliability"]),
        ([scored("x", 1.0, 0.5)], ["scores by class", "precision and recall", "reliability"]),
    ):
        run = write_run(tmp_path / f"{len(titles)}", CLF, {0: ({"loss": 1.0}, items)})
        charts = score_charts(scores_of(evaluations(run)[0], unit_of(CLF)))
        assert [chart.title for chart in charts] == titles


def test_the_command_to_repeat_a_run_asks_for_the_same_job() -> None:
    asked = ["--model_init_name", "a b", "--data", "x", "--stop", '["\\n", "; rm"]', "--max_steps",
             "7", "--lr_scheduler_type", "cosine_with_restarts", "--lr_scheduler_kwargs",
             '{"num_cycles": 2}', "--training_run_name", "r", "--seed", "5"]  # fmt: skip
    spec, _, problems = parse_command_line("seq2seq", "", asked)
    assert not problems
    command = command_again(json.loads(json.dumps(vars(spec))))
    words = shlex.split(command)
    assert words[:2] == ["python3", "seq2seq.py"]
    again, _, problems = parse_command_line("seq2seq", "", words[2:])
    assert not problems
    assert again == dataclasses.replace(spec, training_run_name="r_again")


def packed(html: str) -> dict[str, Any]:
    """The records of a page."""
    (text,) = re.findall(r'<script type="application/gzip">([^<]*)</script>', html)
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return content


def test_no_text_can_run_as_a_script() -> None:
    """It stands in every place of a page; the only scripts are the page's own, by its digest."""
    answers = [Answer(EVIL, EVIL, 0.5)]
    blocks = [
        Table([EVIL], [[EVIL]], note=EVIL, folded=EVIL),
        Text([EVIL]),
        Text([EVIL], code=True),
        *curves("seq2seq", [], made(1.0, 2.0, name=EVIL)),
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
    assert packed(html)["items"] == [[1, EVIL, EVIL, [[EVIL, EVIL, 0.5, 1]], [EVIL], [1.0], [0]]]


def test_a_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = write_report(seq2seq_run(tmp_path / "run")).read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s\"'<>]+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # SVG's name, which nothing is loaded from
    assert len(html) < 60_000


def test_a_report_has_all_parts_that_there_is_something_to_say_of(tmp_path: Path) -> None:
    run = seq2seq_run(tmp_path / "run")
    titles = [section.title for section in page_of(run).sections]
    assert titles == ["Verdict", "Curves", "Metrics", "Answers", "Job"]
    (run / "temperature=0.00_n=1_step=4.json").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "loss"')  # only being written
    titles = [section.title for section in page_of(run).sections]
    assert titles == ["Verdict", "Curves", "Metrics", "Job"]


def test_a_report_that_cannot_be_made_is_told_and_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflow.console.log.propagate", True)
    run = seq2seq_run(tmp_path / "run")
    last = run / "temperature=0.00_n=1_step=4.json"
    last.write_text("[{", encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="workflow"):
        keep_report(run)
    assert caplog.messages == [
        f"{run}/report.html is not up to date (BadInput: {last}: found no whole JSON list; "
        "expected a file as it was written; get it back from a copy, or make it again); "
        "`python3 -m workflow report run` makes it again"
    ]
    assert not list(run.glob(".*"))
    assert not (run / "report.html").exists()


def test_the_command_makes_a_report_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = seq2seq_run(tmp_path / "models" / "group" / "run")
    assert main(["report", "group/run", "--mount", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", "other", "--mount", str(tmp_path)]) == 2
    assert main(["report", "../run", "--mount", str(tmp_path)]) == 2
    models = tmp_path / "models"
    assert capsys.readouterr().err.splitlines() == [
        f"run 'other': found no run and no job of this name; expected a run in {models}; choose "
        "among group/run",
        "run ../run: found a name that leaves mount/models, is hidden, cannot be printed or has "
        f"over 120 bytes; expected a folder name inside {models}; choose another name",
    ]
