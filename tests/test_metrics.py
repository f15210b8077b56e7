"""Metrics are pure functions with known values."""

import math

import pytest

from workflow.metrics import exact_match, is_better, perplexity


def test_exact_match_counts_equal_texts() -> None:
    assert exact_match(["a", " b ", "c"], ["a", "b", "C"]) == pytest.approx(2 / 3)
    assert exact_match([], []) is None


def test_perplexity_is_exp_of_the_loss_or_nothing() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(None) is None
    assert perplexity(1e6) is None
    assert perplexity(math.nan) is None


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("loss", 1.0, 2.0, True),
        ("loss", 2.0, 1.0, False),
        ("exact_match", 0.5, 0.4, True),
        ("exact_match", 0.4, 0.4, False),
        ("loss", 5.0, None, True),
        ("loss", None, None, False),
        ("loss", math.nan, 1.0, False),
    ],
)
def test_better_depends_on_the_metric(
    metric: str, value: float | None, best: float | None, better: bool
) -> None:
    assert is_better(metric, value, best) is better
