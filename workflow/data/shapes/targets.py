"""Records with a number to predict."""

from dataclasses import dataclass

from workflow.config.templates import PLAIN
from workflow.core.errors import shorten
from workflow.data.records import NO_ANSWER, Record, WrongAnswer
from workflow.data.shapes.base import Shape

_CLASSES = 'for classes, write their names under the key "label" in place of "target"'


@dataclass(frozen=True)
class Targets(Shape):
    """A text and a number in a range.

    Attributes:
        least, greatest: of the numbers.
        template: of the text, with {input}.
    """

    least: float = 0.0
    greatest: float = 1.0
    template: str = PLAIN
    name, source_keys, answer_key = "target", ("input",), "target"
    answer_kind = "a number"
    marks = ("input", "target")

    def reads(self, record: Record) -> tuple[str, ...]:
        return (self.template.replace("{input}", record["input"]),)

    def answer(self, record: Record) -> float | None:
        target = record.get("target")
        return None if target is None else float(target)  # 1, 1.0 and true are the same target

    def check_answer(self, value: object) -> WrongAnswer | None:
        booleans = (self.least, self.greatest) == (0, 1)  # else true could mean 1 or the greatest
        number = isinstance(value, int | float) and (booleans or not isinstance(value, bool))
        if number and self.least <= value <= self.greatest:  # type: ignore[operator]
            return None
        expected = f"a number from {self.least:g} to {self.greatest:g}"
        expected += ", true or false" if booleans else ""
        hint = "correct it"
        if isinstance(value, int) and booleans:
            hint = f"{_CLASSES}; for grades, set --target_min and --target_max"
        elif number:
            hint = "correct it, or set --target_min and --target_max to the range of all targets"
        elif value is None:
            hint = NO_ANSWER
        elif isinstance(value, str):
            hint = f"write a number, without quotes; {_CLASSES}"
        elif isinstance(value, list):
            hint = _CLASSES
        return shorten(value) if isinstance(value, str) else "", expected, hint
