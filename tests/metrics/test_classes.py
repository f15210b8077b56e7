"""Metrics of several classes equal scikit-learn's and hand computations."""

import time
import tracemalloc

import numpy as np
import pytest
import sklearn.metrics as sk

from workflow.metrics import bootstrap
from workflow.metrics.bootstrap import Floats
from workflow.metrics.classes import (
    class_metrics,
    class_points,
    pair_metrics,
    resampled_class_metrics,
)
from workflow.metrics.scores import score_metrics

NAMES = ("a", "b", "tie")
WITH_INTERVALS = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Fewer resamples, in several blocks."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    monkeypatch.setattr(bootstrap, "COUNTS_AT_ONCE", 1_000)
    return 20


def drawn(records: int, seed: int, k: int = 3, soft: bool = False) -> tuple[Floats, Floats]:
    """Probabilities that are often right, and labels of unequal frequencies."""
    generator = np.random.default_rng(seed)
    targets = generator.dirichlet(np.arange(1, k + 1) * 0.7, records)
    if not soft:
        targets = np.eye(k)[[generator.choice(k, p=row) for row in targets]]
    probabilities = 0.4 * targets + 0.6 * generator.dirichlet(np.full(k, 0.5), records)
    return probabilities, targets


def one_hot(labels: list[int], k: int = 3) -> Floats:
    return np.eye(k)[labels]


def expected_ece(probabilities: Floats, targets: Floats) -> float:
    chosen, error = probabilities.argmax(1), 0.0
    confidence = probabilities.max(1)
    right = targets[np.arange(len(targets)), chosen]
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return error


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("records", [1, 5, 400])
def test_values_equal_scikit_learn(k: int, records: int) -> None:
    """With few records some classes have none, or no predictions."""
    names = [f"class {i}" for i in range(k)]
    for seed in range(5):
        probabilities, targets = drawn(records, seed, k)
        found = class_points(probabilities, targets, names)
        true, chosen, every = targets.argmax(1), probabilities.argmax(1), list(range(k))
        recalls = [(chosen[true == i] == i).mean() for i in set(true)]
        expected = {
            "accuracy": sk.accuracy_score(true, chosen),
            "balanced_accuracy": np.mean(recalls),
            "macro_f1": sk.f1_score(true, chosen, labels=every, average="macro", zero_division=0),
            "log_loss": sk.log_loss(true, probabilities, labels=every),
            "brier": ((probabilities - targets) ** 2).sum(axis=1).mean(),
            "ece": expected_ece(probabilities, targets),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
        if records > 5:  # with fewer, scikit-learn warns of absent classes
            assert expected["balanced_accuracy"] == pytest.approx(
                sk.balanced_accuracy_score(true, chosen)
            )
        of_classes = sk.precision_recall_fscore_support(
            true, chosen, labels=every, zero_division=np.nan
        )
        for kind, values in zip(("precision", "recall", "f1"), of_classes, strict=False):
            ours = [found[f"{kind}/{name}"] for name in names]
            assert [np.nan if value is None else value for value in ours] == pytest.approx(
                list(values), nan_ok=True
            )


def test_a_small_example_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [0.1, 0.6, 0.3], [0.5, 0.3, 0.2]])
    targets = one_hot([0, 0, 1, 1])
    found = class_metrics(probabilities, targets, NAMES)
    assert {name: found[name] for name in found if "ci95" not in name} == pytest.approx({
        "accuracy": 0.75,  # of equally likely classes the first
        "balanced_accuracy": (1 + 0.5) / 2,
        "macro_f1": (4 / 5 + 2 / 3 + 0) / 3,
        "log_loss": -np.log([0.7, 0.4, 0.6, 0.3]).mean(),
        "brier": (0.14 + 0.56 + 0.26 + 0.78) / 4,
        "ece": (0.3 + 0.6 + 0.4 + 0.5) / 4,  # each in its own bin
        "majority_accuracy": 0.5,
        "frequencies_log_loss": np.log(2),
        "frequencies_brier": 0.5,
        "precision/a": 2 / 3, "precision/b": 1.0, "precision/tie": None,
        "recall/a": 1.0, "recall/b": 0.5, "recall/tie": None,
        "f1/a": 4 / 5, "f1/b": 2 / 3, "f1/tie": None,
    })  # fmt: skip
    assert {name for name in found if "ci95" in name} == {f"{n}_ci95" for n in WITH_INTERVALS}
    assert next(iter(found)) == "accuracy"
    assert class_metrics(np.empty((0, 3)), np.empty((0, 3)), NAMES) == {}


def test_soft_targets_are_expectations_over_labels() -> None:
    """As if each record were drawn once per class, weighted by the target."""
    probabilities, targets = drawn(200, 3, soft=True)
    found = class_points(probabilities, targets, NAMES)
    labels = np.tile(np.arange(3), len(targets))
    each = np.repeat(probabilities, 3, axis=0)
    brier = ((each - one_hot(labels.tolist())) ** 2).sum(axis=1)
    assert found["log_loss"] == pytest.approx(
        sk.log_loss(labels, each, sample_weight=targets.ravel())
    )
    assert found["brier"] == pytest.approx(np.average(brier, weights=targets.ravel()))
    assert found["ece"] == pytest.approx(expected_ece(probabilities, targets))
    assert found["accuracy"] == (probabilities.argmax(1) == targets.argmax(1)).mean()
    # What the frequencies give as predictions:
    constant = class_points(np.tile(targets.mean(0), (200, 1)), targets, NAMES)
    assert found["frequencies_log_loss"] == pytest.approx(constant["log_loss"])
    assert found["frequencies_brier"] == pytest.approx(constant["brier"])
    assert found["majority_accuracy"] == np.bincount(targets.argmax(1)).max() / 200


@pytest.mark.parametrize("soft", [False, True])
def test_permuting_the_classes_changes_nothing(soft: bool, few: int) -> None:
    probabilities, targets = drawn(150, 1, soft=soft)
    expected = class_metrics(probabilities, targets, NAMES)
    order = [2, 0, 1]
    found = class_metrics(probabilities[:, order], targets[:, order], [NAMES[i] for i in order])
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


@pytest.mark.parametrize("soft", [False, True])
def test_two_classes_equal_the_binary_metrics(soft: bool, few: int) -> None:
    probabilities, targets = drawn(300, 2, k=2, soft=soft)
    found = class_metrics(probabilities, targets, ["no", "yes"])
    binary = score_metrics(probabilities[:, 1], targets[:, 1])
    for name in ("accuracy", "balanced_accuracy", "log_loss"):
        assert found[name] == pytest.approx(binary[name], rel=1e-12)
    assert found["brier"] == pytest.approx(2 * binary["brier"])
    assert found["f1/yes"] == pytest.approx(binary["f1"])
    # Other bins: of the predicted class, from 0.5 on.
    assert found["ece"] == pytest.approx(expected_ece(probabilities, targets))


def test_intervals_are_those_of_a_naive_bootstrap(few: int) -> None:
    """Also with classes that some resamples lack."""
    for records in (12, 150):
        probabilities, targets = drawn(records, 5)
        found = class_metrics(probabilities, targets, NAMES, seed=7)
        generator = np.random.default_rng(7)
        naive = []
        for _ in range(few):
            rows = generator.integers(records, size=records)
            naive.append(class_points(probabilities[rows], targets[rows], NAMES))
        for name in WITH_INTERVALS:
            values = [line[name] for line in naive]
            assert found[f"{name}_ci95"] == pytest.approx(np.percentile(values, [2.5, 97.5]))
    resampled = resampled_class_metrics(probabilities, targets, NAMES, seed=7)
    assert {len(values) for values in resampled.values()} == {few}


def test_impossible_probabilities_have_a_finite_loss() -> None:
    found = class_points(one_hot([1, 0]), one_hot([0, 0]), NAMES)
    assert found["log_loss"] == pytest.approx(36.05 / 2, abs=0.01)
    assert found["brier"] == 1.0


@pytest.mark.parametrize(
    "rows",
    [[[0.5, 0.5]], [[0.5, 0.6, 0.2]], [[-0.2, 0.6, 0.6]], [[np.nan, 0.5, 0.5]], [0.2, 0.3, 0.5]],
)
def test_what_are_no_probabilities_is_refused(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        class_metrics(np.array(rows), one_hot([0]), NAMES)
    with pytest.raises(ValueError, match="probabilities"):
        class_metrics(one_hot([0]), np.array(rows), NAMES)


def test_pairs_in_both_orders() -> None:
    as_given = one_hot([0, 0, 1, 2, 0])
    swapped = one_hot([0, 1, 1, 2, 2])
    # First place: a, a and a in the given order, b and b in the other; second: b, and a.
    assert pair_metrics(as_given, swapped, NAMES) == {
        "swap_consistency": 3 / 5,
        "first_place_share": 5 / 7,
    }
    order = [2, 1, 0]
    assert pair_metrics(as_given[:, order], swapped[:, order], NAMES[::-1]) == {
        "swap_consistency": 3 / 5,
        "first_place_share": 5 / 7,
    }
    ties = one_hot([2, 2])
    assert pair_metrics(ties, ties, NAMES) == {"swap_consistency": 1, "first_place_share": None}
    always_first = pair_metrics(one_hot([0, 0]), one_hot([1, 1]), NAMES)
    assert always_first == {"swap_consistency": 0, "first_place_share": 1}
    assert pair_metrics(np.empty((0, 3)), np.empty((0, 3)), NAMES) == {}


def test_many_records_and_many_classes_take_seconds() -> None:
    generator = np.random.default_rng(0)
    for records, k, seconds in ((100_000, 3, 20), (2_000, 1_000, 60)):
        targets = np.eye(k)[generator.integers(k, size=records)]
        probabilities = generator.dirichlet(np.ones(k), records)
        tracemalloc.start()
        began = time.perf_counter()
        class_metrics(probabilities, targets, [str(i) for i in range(k)])
        taken, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{records:,} x {k}: {taken:.1f} s, {peak / 2**20:.0f} MiB")
        assert taken < seconds
        assert peak < 300 * 2**20
