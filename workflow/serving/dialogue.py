"""A conversation with a model, one line after another, without a server."""

import json
from collections.abc import Generator, Iterator

from workflow.core.errors import BadInput, Problem
from workflow.data.shapes.texts import Chat, Prompt
from workflow.inference.decoding import Decoding
from workflow.inference.rows import Shapes
from workflow.serving.engine import ready_to_write
from workflow.serving.lane import Lane
from workflow.serving.model import ServedModel
from workflow.serving.texts import Choosing, Text


class Dialogue:
    """Answers lines: with a chat template each is a turn, otherwise a prompt of its own.

    A model of `clf.py` scores each line.

    Attributes:
        keeps_turns: whether an answer depends on the lines before.
    """

    def __init__(self, model: ServedModel, decoding: Decoding):
        self._model, self._choosing = model, Choosing(decoding)
        self.keeps_turns = model.writes and model.job.tokenizer.chat_template is not None
        self._longest = model.job.spec.max_source_length
        if model.writes:
            most = Shapes(1, decoding.max_new_tokens, 1, self._longest)
            self._lane = Lane(model, most)
        self.begin()

    def begin(self) -> None:
        """Begin another conversation."""
        self._turns: list[dict[str, str]] = []

    def answer(self, line: str) -> Generator[str]:
        """The answer in parts, as it is written; closing the generator stops it.

        Raises:
            BadInput: the line cannot be answered; the conversation is as before.
        """
        if not self._model.writes:
            yield json.dumps(self._model.scores([{"input": line}])[0])
            return
        turns = [*self._turns, {"role": "user", "content": line}]
        prompt: Prompt = Chat(tuple(turns)) if self.keeps_turns else line
        ids = self._model.prompt_ids(prompt)
        if len(ids) > self._longest:
            found, hint = f"{len(ids):,} tokens", "begin another conversation, or write less"
            expected = f"at most {self._longest:,} tokens"
            raise BadInput([Problem("prompt", found, expected, hint)])
        text = Text(ids, 0, self._choosing, lambda: None, streams=True)
        try:
            yield from self._parts(text)
        finally:
            self._turns = [*turns, {"role": "assistant", "content": text.written}]

    def _parts(self, text: Text) -> Iterator[str]:
        self._lane.waiting.append(text)
        shown = 0
        with ready_to_write([self._model.model]):
            try:
                while text.finish_reason is None:
                    self._lane.advance()
                    yield text.written[shown:]
                    shown = len(text.written)
            finally:
                text.end()
                self._lane.advance()  # its place is free
