"""One batch for all requests: texts join it and leave it at every token."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch

from workflow.core.console import log
from workflow.distributed.device import any_kernels
from workflow.inference.causal_decoder import by_rows
from workflow.inference.rows import Shapes
from workflow.serving.lane import Lane
from workflow.serving.model import ServedModel
from workflow.serving.texts import Text


class TextEngine:
    """Writes the texts of models in a thread of its own; the models take turns at every token.

    The decoders and their loop are those of evaluations, so that a text has the ids and logits that
    an evaluation gives it, whoever else asks.
    """

    def __init__(self, models: Mapping[str, ServedModel], most: Shapes, log_prompts: bool):
        """Take models in evaluation mode, by name.

        Args:
            most: texts of a model written together, with a prompt each, and the tokens of both.
        """
        self._models, self._log_prompts = models, log_prompts
        self._lanes = {name: Lane(model, most) for name, model in models.items()}
        self._waiting: deque[tuple[Lane, Text]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    def add(self, name: str, texts: Sequence[Text]) -> None:
        """Write texts of a model as soon as there are places, in the order of their coming."""
        lane = self._lanes[name]
        with self._changed:
            self._waiting.extend((lane, text) for text in texts)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """The number of texts that have places."""
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """The number of texts that wait for places."""
        return len(self._waiting) + sum(len(lane.waiting) for lane in self._lanes.values())

    def _run(self) -> None:
        with ExitStack() as stack:
            for context in (torch.no_grad(), any_kernels()):
                stack.enter_context(context)
            for model in {id(one.model): one.model for one in self._models.values()}.values():
                stack.enter_context(by_rows(model))
            while self._await_work():
                for lane in self._lanes.values():
                    self._advance(lane)

    def _await_work(self) -> bool:
        """Wait until there is a text to write; returns False once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or self._waiting or any(lane.busy for lane in self._lanes.values())
                )
            )
            while self._waiting:
                lane, text = self._waiting.popleft()
                lane.waiting.append(text)
            return not self._closed

    def _advance(self, lane: Lane) -> None:
        try:
            lane.advance()
        except Exception as error:  # its requests fail, the server goes on
            kind = type(error).__name__
            log.error("writing texts failed: %s", kind, exc_info=self._log_prompts)
            lane.fail(error)
