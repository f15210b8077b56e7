"""What --metric can name: the metrics of each kind, and what they are computed from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow.config.field_types import integer, number
from workflow.config.task_specs import BEST_METRICS, best_metrics, task_of
from workflow.core.errors import Problem, nearest


@dataclass(frozen=True)
class MetricKind:
    """Metrics that are computed together.

    Attributes:
        gives: their names.
        form: of the arguments: "MODEL", or "[ALPHA]" for one that may be missing.
        no_best: whether neither higher nor lower values are better.
        geometric: whether records have the geometric mean.
        of_sums: whether some are no means over records, but functions of sums.
    """

    gives: tuple[str, ...]
    form: tuple[str, ...] = ()
    no_best: bool = False
    geometric: bool = False
    of_sums: bool = False

    @property
    def needed(self) -> list[str]:
        """The arguments that may not be missing."""
        return [one for one in self.form if not one.startswith("[")]

    def form_of(self, name: str) -> str:
        """How a kind of this name is asked for: "NAME:MODEL[:LAYER]"."""
        return ":".join([name, *self.form]).replace(":[", "[:")


KINDS = {
    "bartscore": MetricKind(
        ("bartscore", "bartscore_precision", "bartscore_recall"), ("MODEL",)
    ),
    "bartscore_source": MetricKind(
        ("bartscore_faithfulness", "bartscore_coverage"), ("MODEL",)
    ),
    "bertscore": MetricKind(
        ("bertscore", "bertscore_precision", "bertscore_recall"),
        ("MODEL", "[LAYER]", "[BASELINE]"),
    ),
    "perplexity": MetricKind(("answer_perplexity",), ("MODEL",), geometric=True),
    "diversity": MetricKind(("distinct_1", "distinct_2", "distinct_3", "self_bleu")),
    "copying": MetricKind(
        ("copied_words", "copied_run", "length_ratio"), no_best=True, of_sums=True
    ),
    "ibleu": MetricKind(("ibleu",), ("[ALPHA]",), of_sums=True),
    "ter": MetricKind(("ter",), of_sums=True),
    "squad": MetricKind(("squad_exact_match", "squad_f1")),
    "json": MetricKind(("json_valid", "json_exact")),
    "number_close": MetricKind(("number_close",), ("[TOLERANCE]",)),
    "choice": MetricKind(("choice",), ("FILE",)),
    "same_script": MetricKind(("same_script",)),
}  # fmt: skip
"""Of a model's answers; other names are of a user's own functions."""
GEOMETRIC = frozenset(name for kind in KINDS.values() if kind.geometric for name in kind.gives)
"""Metrics that are geometric means."""
RANKED = frozenset({
    *BEST_METRICS, *(name for kind in KINDS.values() if not kind.no_best for name in kind.gives)
})  # fmt: skip
"""Metrics of which higher or lower values are known to be better."""
METRICS = ", ".join(kind.form_of(name) for name, kind in KINDS.items())
"""How each is asked for."""
_NUMBERS = {"[ALPHA]": number(0, below=1), "[TOLERANCE]": number(0), "[LAYER]": integer(1)}
"""The types of arguments that are numbers."""


@dataclass(frozen=True)
class AskedMetric:
    """A metric as asked for: KIND, KIND:ARGUMENT…, or FILE.py:FUNCTION."""

    text: str

    @property
    def kind(self) -> MetricKind | None:
        """None for a user's own function, and for what there is not."""
        return KINDS.get(self.name)

    @property
    def by_model(self) -> bool:
        """Whether a model judges."""
        return self.kind is not None and "MODEL" in self.kind.form

    @property
    def is_own(self) -> bool:
        """Whether it names a user's function, FILE.py:FUNCTION."""
        return self.kind is None and ":" in self.text and ("." in self.text or "/" in self.text)

    @property
    def name(self) -> str:
        return self.text.partition(":")[0]

    @property
    def arguments(self) -> list[str]:
        return self.text.split(":")[1:]

    def argument(self, place: int) -> str | None:
        """An argument; None if it is missing."""
        return next(iter(self.arguments[place:]), None)

    @property
    def files(self) -> list[str]:
        """The files that it reads, beside those of models."""
        if self.kind is None:
            return [self.text.rpartition(":")[0]] * self.is_own
        given = zip(self.kind.form, self.arguments, strict=False)
        return [value for form, value in given if form in ("FILE", "[BASELINE]")]


def names_given(asked: Sequence[str]) -> list[str]:
    """The names of the metrics that are asked for, without those of a user's functions."""
    kinds = (AskedMetric(text).kind for text in asked)
    return [name for kind in kinds if kind for name in kind.gives]


def asked_in(spec: Mapping[str, Any]) -> list[str]:
    """The value of --metric in a training_args.json; earlier versions had one function or none."""
    asked = spec.get("metric")
    return asked if isinstance(asked, list) else []


def problems_of_metrics(
    task: str, asked: Sequence[str], metric_for_best_model: str
) -> Iterator[Problem]:
    """What is wrong with --metric, and a metric of the best checkpoint that is not computed."""
    for text in asked:
        yield from problems_of(AskedMetric(text))
    own = [one.text.rpartition(":")[2] for one in map(AskedMetric, asked) if one.is_own]
    names = names_given(asked)
    if twice := sorted({name for name in names + own if (names + own).count(name) > 1}):
        found = f"{', '.join(twice)} asked for twice"
        yield Problem("--metric", found, "each metric once", "remove one of them")
    if names and task_of({"task": task}).output != "texts":
        texts = [text for text in asked if AskedMetric(text).kind]
        expected = "FILE.py:FUNCTION, since scores are no texts"
        yield Problem("--metric", ", ".join(texts), expected, "remove it")
    best = (*best_metrics(task), *(name for name in names if name in RANKED))
    if metric_for_best_model not in best:
        expected, hint = f"one of {', '.join(best)}", "choose one of them"
        kind = next((kind for kind, one in KINDS.items() if metric_for_best_model in one.gives), "")
        if kind and metric_for_best_model in RANKED and task_of({"task": task}).output == "texts":
            hint = f"add --metric {':'.join([kind, *KINDS[kind].needed])}"
        yield Problem("--metric_for_best_model", metric_for_best_model, expected, hint)


def problems_of(asked: AskedMetric) -> Iterator[Problem]:
    """What is wrong with the form of a metric."""
    where, kind = f"--metric {asked.text}", asked.kind
    if kind is None:
        if not asked.is_own:
            expected = f"FILE.py:FUNCTION, or one of {', '.join(KINDS)}"
            hint = nearest(asked.name, list(KINDS), "name a Python file and a function in it")
            yield Problem(where, "no such metric", expected, hint)
        return
    form = kind.form_of(asked.name)
    if not len(kind.needed) <= len(asked.arguments) <= len(kind.form) or "" in asked.arguments:
        found = ":".join(asked.arguments) or "no argument"
        yield Problem(where, found, form, "write it in this form")
        return
    for name, value in zip(kind.form, asked.arguments, strict=False):
        if name in _NUMBERS:
            try:
                _NUMBERS[name].convert(value)
            except ValueError:
                hint = f"correct {name[1:-1]} in {form}"
                yield Problem(where, value, _NUMBERS[name].expected, hint)
