"""Bad inputs of clf.py with classes; tests/golden/bad_input.txt has the message of each."""

from typing import Any

from bad_inputs import BadInput

GOOD = {"input": "is it so?", "label": "good"}
OTHER = {"input": "was it so?", "label": "bad"}
CHOSEN = {"prompt": "1 + 1", "chosen": "2", "rejected": "3"}
PAIR = {"prompt": "1 + 1", "response_a": "2", "response_b": "3", "label": "a"}


def _of(name: str, record: dict[str, Any], *extra: str, good: Any = GOOD) -> BadInput:
    """Data whose second train record is `record`."""
    others = [good, good | {"label": "tie"}] if good is PAIR else [good, OTHER]
    data = {"train": [others[0], record, others[1]], "eval": [good]}
    return BadInput(name, data, extra=extra, task="clf")


def _pair(name: str, *extra: str, **changes: Any) -> BadInput:
    record = {key: one for key, one in (PAIR | changes).items() if one is not ...}
    return _of(name, record, *extra, good=PAIR)


BAD_CLASSES = [
    _of("a label that is a number", {"input": "a", "label": 1}),
    _of("a label that is null", {"input": "a", "label": None}),
    _of("a label that is empty", {"input": "a", "label": " "}),
    _of("a label that is a list", {"input": "a", "label": ["good", "bad"]}),
    _of("a label without numbers", {"input": "a", "label": {"good": "much"}}),
    _of("a label with a negative share", {"input": "a", "label": {"good": 1.5, "bad": -0.5}}),
    _of("a label that does not sum to 1", {"input": "a", "label": {"good": 0.5, "bad": 0.2}}),
    _of("no label", {"input": "a"}),
    _of("a target among labels", {"input": "a", "target": 1}),
    _of("a pair among texts", PAIR),
    BadInput("only one class", {"train": [GOOD], "eval": [GOOD]}, task="clf"),
    _of("a class that the job does not name", GOOD, "--classes", "bad", "worse"),
    _of("class names that are no single tokens", {"input": "a", "label": "incomprehensible"}),
    _of("too few words for the classes", {"input": "a", "label": "so"}, "--label_words", "a", "b"),
    _of("a metric of targets", GOOD, "--metric_for_best_model", "auc", "--label_words", "a", "b"),
    _of("weights that do not exist", GOOD, "--class_weight", "w.json", "--label_words", "a", "b"),
    _of("flags of other records", GOOD, "--both_orders", "true", "--target_max", "5"),
    _pair("a pair's label in capitals", label="A"),
    _pair("a pair's label with another class", label={"a": 0.5, "c": 0.5}),
    _pair("a pair without an answer", response_b=...),
    _pair("a pair with an answer that is a number", response_a=2),
    _pair("shares that do not sum to 1", "--pair_shares", "0.5", "0.5", "0.5"),
    _pair("a side of truncation for pairs", "--truncation_side", "left"),
    _pair("no room for a pair", "--max_source_length", "9"),
    BadInput(
        "a worse answer without a better one",
        {"train": [CHOSEN, {"prompt": "a", "rejected": "b"}], "eval": [CHOSEN]}, task="clf",
    ),
]  # fmt: skip
