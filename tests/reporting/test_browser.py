"""The pages of a run in a browser: content and interaction."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import answered, scored, write_run
from open_pages import MARKS, WIDTHS, Opened, opened_browser
from playwright.sync_api import Browser

from workflow.reporting.compare import compare
from workflow.reporting.report.run import write_report
from workflow.runs.mount import Mount

EVIL = "</script><script>document.title = 'run'</script><img src=x onerror=alert(1)>\u2028<!--"
AS_WIDE = """() => [...document.querySelectorAll("figure svg")].every(
  svg => svg.getAttribute("viewBox").startsWith(`0 0 ${svg.parentNode.clientWidth} `))"""

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def seq2seq_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty records: one is malicious, one is long, and every third prediction has changed."""
    spec = {"task": "seq2seq", "temperature": 0.7, "n_samples": 2, "model_init_name": EVIL}
    items: dict[int, list[dict[str, Any]]] = {
        step: [
            answered(f"what is {i}?", f"it is {i} now", f"it is {i + (i % 3 and step)} now", "no")
            for i in range(60)
        ]
        for step in (0, 4)
    }
    for found in items.values():
        found[7] = answered(EVIL, EVIL, f"{EVIL} more", EVIL)
        found[8] = answered("long " + "x" * 100_000, "z", "long", "z")
        found[9] = answered("mixed", "so " * 99, f"{'so ' * 50}{EVIL} {'so ' * 49}", EVIL)
    metrics = [{"loss": loss, EVIL: loss, "rougeL": 1 / loss, "rougeL_ci95": [0.1, 1.0]}
               for loss in (2.0, 1.0)]  # fmt: skip
    evaluations = {step: (metrics[i], items[step]) for i, step in enumerate(items)}
    run = write_run(
        tmp_path_factory.mktemp("mount") / "models" / "run",
        spec,
        evaluations,
        losses=[9.0, 5.0, 2.0, 1.0] * 9,
    )
    return write_report(run)


@pytest.fixture(scope="module")
def clf_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = {"task": "clf", "target_min": 0.0, "target_max": 1.0}
    items = [scored(f"{i} {EVIL}", float(i % 2), i / 40) for i in range(40)]
    evaluations = {step: ({"loss": 1.0 + step, "auc": 0.5}, items) for step in (0, 4)}
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "run", spec, evaluations))


@pytest.fixture(scope="module")
def comparison_page(seq2seq_page: Path) -> Path:
    """The comparison of the two evaluations of the run above."""
    page = seq2seq_page.parent / "comparison.html"
    assert compare(Mount(seq2seq_page.parents[2]), ["run"], str(page), "-") == 0
    return page


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(
    ("page", "title"),
    [("seq2seq", "run"), ("clf", "run"), ("comparison", "run@4 vs run@0")],
)
def test_a_page_logs_nothing_and_requests_nothing(
    browser: Browser, page: str, title: str, width: int, request: pytest.FixtureRequest
) -> None:
    """No errors, warnings, dialogs or further requests; no wider than a phone."""
    path = request.getfixturevalue(f"{page}_page")
    opened = Opened(browser, path, width)
    assert opened.said == [path.as_uri()]
    assert opened.page.title() == title
    assert opened.page.locator("img").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    charts = opened.page.locator("figure").count()
    assert charts == opened.page.locator("figure svg").count() > 3
    everything = opened.page.locator("details").all()
    for folded in everything:
        folded.locator("summary").click()
    assert opened.page.locator("figure svg:visible").count() == charts
    opened.page.set_viewport_size({"width": width - 50, "height": 900})
    opened.page.wait_for_function(AS_WIDE)  # redrawn, not stretched
    assert opened.page.locator("svg [d*=NaN], svg [d*=Infinity]").count() == 0
    assert opened.said == [path.as_uri()]
    opened.page.close()


def test_records_can_be_searched_sorted_and_filtered(browser: Browser, seq2seq_page: Path) -> None:
    opened = Opened(browser, seq2seq_page, WIDTHS["desktop"])
    page, count = opened.page, ".items [role=status]"
    assert opened.texts(count) == ["25 of 60 records shown"]
    heads = opened.texts("article h3")
    assert len(heads) == 25
    assert re.fullmatch(r"changedwrongeval\[\d+\] · logits: no -1.00, yes 0.50", heads[0])
    page.get_by_role("button", name="show 25 more").click()
    assert opened.texts(count) == ["50 of 60 records shown"]
    page.get_by_role("button", name="show 10 more").click()
    assert page.locator("article").count() == 60
    assert not page.locator(".items > button").is_visible()
    page.get_by_label("filter by tag").select_option("right")
    assert opened.texts(count) == ["19 of 19 records shown, 60 in total"]
    page.get_by_label("filter by tag").select_option("all")
    page.get_by_label("sort by").select_option("word F1, lowest first")
    assert opened.texts("article:first-of-type dd")[0].startswith("long xxx")
    page.get_by_placeholder("search", exact=True).fill("IS 42?")
    page.get_by_text("1 of 1 record shown, 60 in total").wait_for()
    assert opened.texts("article dd") == [
        "what is 42?", "it is 42 now", "it is 42 now word F1 1.00", "no word F1 0.00",
    ]  # fmt: skip
    page.get_by_label("search").fill("nobody wrote this")
    page.get_by_text("No matches in 60 records.").wait_for()
    assert page.locator("article").count() == 0
    page.close()


def test_long_texts_are_folded_and_malicious_texts_escaped(
    browser: Browser, seq2seq_page: Path
) -> None:
    opened = Opened(browser, seq2seq_page, WIDTHS["phone"])
    page = opened.page
    assert page.locator("article").count() == 10
    page.get_by_label("sort by").select_option("file order")
    prompt = opened.record("long x").locator("dd").first
    assert len(prompt.inner_text()) < 350
    prompt.get_by_role("button").click()
    assert prompt.inner_text() == f"long {'x' * 19_995}… (truncated)"
    assert opened.record("</script>").locator("dd").first.inner_text() == EVIL
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS["phone"]
    assert (page.title(), opened.said) == ("run", [seq2seq_page.as_uri()])
    page.close()


def test_a_chart_shows_the_values_at_the_pointer(browser: Browser, seq2seq_page: Path) -> None:
    for touch in (False, True):
        opened = Opened(browser, seq2seq_page, WIDTHS["desktop"], touch)
        chart = opened.page.locator("figure", has_text="ROUGE")
        chart.scroll_into_view_if_needed()
        box = chart.locator("svg").bounding_box()
        assert box is not None
        place = box["x"] + box["width"] - 20, box["y"] + 50
        (opened.page.touchscreen.tap if touch else opened.page.mouse.move)(*place)
        shown = chart.locator(".read")
        assert shown.inner_text() == "step 4 · rougeL 1 (0.1 to 1)"
        if not touch:  # tapped values stay
            opened.page.mouse.move(0, 0)
            assert shown.inner_text() == ""
        opened.page.close()
