"""A JSON file read as a stream."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from workflow.data.records import decoder

WINDOW = 1 << 20
"""Bytes of a JSON file read at once."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class NotWellFormed(ValueError):
    """Invalid JSON; decoding the complete file shows the cause."""


class JsonStream:
    """The values of a JSON file, decoded one at a time from a moving window on its text."""

    def __init__(self, file: BinaryIO, encoding: str = "utf-8-sig"):
        self._file = file
        self._decode = codecs.getincrementaldecoder(encoding)().decode
        self._text, self._at = "", 0

    def members(self) -> Iterator[tuple[str, Any]]:
        """The keys of an object with their values; a list is an iterator, to be exhausted first."""
        for _ in self._elements("{", "}"):
            key = self._next_value(followed_by=":")
            self._expect(":")
            if not isinstance(key, str):
                raise NotWellFormed
            yield key, self.items() if self._peek() == "[" else self._next_value(followed_by=",}")

    def items(self) -> Iterator[Any]:
        """The items of a list."""
        for _ in self._elements("[", "]"):
            yield self._next_value(followed_by=",]")

    def end(self) -> None:
        """Check that nothing follows."""
        if self._peek():
            raise NotWellFormed

    def _elements(self, opening: str, closing: str) -> Iterator[None]:
        """Yield before each element of a list or an object; the caller then takes it."""
        self._expect(opening)
        if self._peek() == closing:
            self._expect(closing)
            return
        yield
        while self._expect("," + closing) == ",":
            yield

    def _peek(self) -> str:
        """The next non-blank character; empty at the end of the file."""
        while True:
            self._at = _skip_blanks(self._text, self._at)
            if self._at < len(self._text) or not self._read_more():
                return self._text[self._at : self._at + 1]

    def _expect(self, marks: str) -> str:
        """Take the next character, which must be one of `marks`."""
        mark = self._peek()
        if not mark or mark not in marks:
            raise NotWellFormed
        self._at += 1
        return mark

    def _next_value(self, followed_by: str) -> Any:
        """Take the next value, however long.

        It is complete only if a mark of `followed_by` follows: at the end of the window, 12 may be
        the start of 123, and 1.5 that of 1.5e3.
        """
        self._peek()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
                behind = _skip_blanks(self._text, end)
                if behind < len(self._text) and self._text[behind] in followed_by:
                    self._at = behind
                    return value
            except json.JSONDecodeError:
                pass  # cut off at the end of the window, or not JSON
            if not self._read_more():
                raise NotWellFormed

    def _read_more(self) -> bool:
        """Drop the text already taken and read as much as is left; False at the end of the file."""
        self._text = self._text[self._at :]
        self._at = 0
        content = self._file.read(max(WINDOW, len(self._text)))
        self._text += self._decode(content, final=not content)
        return bool(content)


def _skip_blanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    assert blanks is not None  # it also matches the empty string
    return blanks.end()
