"""A JSON file read as a stream."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from workflow.data.schema import decoder

WINDOW = 1 << 20
"""Bytes of a JSON file read at once."""

_BLANKS = re.compile(r"[ \t\n\r]*")


class NotWellFormed(ValueError):
    """A file that a stream cannot make sense of; json tells more of the whole of it."""


class JsonStream:
    """The values of a JSON file, each decoded when it is asked for; only that one is in memory.

    A window on the file's text moves on as values are taken from it.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self._at = "", 0

    def members(self) -> Iterator[tuple[str, Any]]:
        """The keys of an object with their values; of a list the items, which are to be taken."""
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
        """Nothing may follow."""
        if self._peek():
            raise NotWellFormed

    def _elements(self, opening: str, closing: str) -> Iterator[None]:
        """Stop before each element of a list or an object, which is to be taken then."""
        self._expect(opening)
        if self._peek() == closing:
            self._expect(closing)
            return
        yield
        while self._expect("," + closing) == ",":
            yield

    def _peek(self) -> str:
        """The next character that is no blank; none at the end of the file."""
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

        It is whole where one of the marks `followed_by` stands behind it: at the window's end
        12 may be the beginning of 123, and 1.5 that of 1.5e3.
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
                pass  # cut off at the window's end, or no JSON
            if not self._read_more():
                raise NotWellFormed

    def _read_more(self) -> bool:
        """Drop what has been taken and read on, as much again as is left; False at the end."""
        self._text = self._text[self._at :]
        self._at = 0
        content = self._file.read(max(WINDOW, len(self._text)))
        self._text += self._decode(content, final=not content)
        return bool(content)


def _skip_blanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    assert blanks is not None  # it matches nothing too
    return blanks.end()
