"""What the records of a file look like: their keys, texts and answers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from workflow.data.records import NO_ANSWER, Record, Wrong, WrongAnswer


@dataclass(frozen=True)
class Shape:
    """The shape of the records of a file, which is the same for all of them.

    Attributes:
        name: as in the documentation.
        source_keys: of texts that each record has.
        answer_key: of what is learned from them; None if the other keys say it.
        answer_kind: of what is learned: "text", "a number" or "a class".
        marks: keys that tell a record of this shape: all of them, or any if `any_marks`.
    """

    name: ClassVar[str]
    source_keys: ClassVar[tuple[str, ...]]
    answer_key: ClassVar[str | None]
    answer_kind: ClassVar[str] = "text"
    marks: ClassVar[tuple[str, ...]]
    any_mark: ClassVar[bool] = False

    @classmethod
    def fits(cls, record: Record) -> bool:
        """Whether a record has the keys that tell this shape from the others."""
        has = any if cls.any_mark else all
        return has(key in record for key in cls.marks)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of texts and answer."""
        return (*self.source_keys, *([self.answer_key] if self.answer_key else []))

    @property
    def example(self) -> str:
        """A record, for messages."""
        return "{" + ", ".join(f'"{key}": …' for key in self.keys) + "}"

    def texts(self, record: Record) -> tuple[str, ...]:
        """The texts of a valid record."""
        return tuple(record[key] for key in self.source_keys)

    def text(self, record: Record) -> str:
        """The texts of a valid record as one."""
        return "\n\n".join(self.texts(record))

    def reads(self, record: Record) -> tuple[str, ...]:
        """Texts that a model certainly reads as they are, in the order of the parts of its row."""
        return (self.text(record),)

    def answer(self, record: Record) -> Any:
        """What a valid record teaches, the same for equal answers; None if it has no answer."""
        return record.get(str(self.answer_key))

    def check_answer(self, value: object) -> WrongAnswer | None:
        """What is wrong with an answer."""
        if isinstance(value, str):
            return None
        if value == []:
            return "an empty list", "text", "write it, or in eval at least one reference"
        several = "write one text; only eval records may have several references"
        hint = several if isinstance(value, list) else "write the completion in quotes"
        return "", "text", NO_ANSWER if value is None else hint

    def check(self, record: Record, answer_needed: bool) -> list[Wrong]:
        """What is wrong with a record besides the values under its keys."""
        return []

    def is_blank(self, record: object) -> bool:
        """Whether the answer of a record is an empty or blank text."""
        if self.answer_kind != "text" or not isinstance(record, dict) or self.check(record, False):
            return False
        answer = self.answer(record)
        return isinstance(answer, str) and not answer.strip()
