"""One batch for all requests: texts join it and leave it at every token."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from transformers import PreTrainedModel

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
        if self._closed:
            self._fail_all()

    def decodes(self, name: str) -> bool:
        """Whether a model has a decoder of its own, which tells log probabilities."""
        return self._lanes[name].decodes

    def close(self) -> None:
        """End all texts, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for lane in self._lanes.values():
            lane.end()
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
        try:
            with ready_to_write([one.model for one in self._models.values()]):
                while self._await_work():
                    for lane in self._lanes.values():
                        self._advance(lane)
        except Exception as error:
            self._log(error)
        finally:
            self._closed = True
            self._fail_all()

    def _fail_all(self) -> None:
        self._hand_out()
        for lane in self._lanes.values():
            with suppress(Exception):  # of a lost device; the texts have ended before
                lane.fail(RuntimeError("the engine has ended"))

    def _hand_out(self) -> None:
        """Give waiting texts to their models' lanes."""
        while self._waiting:
            lane, text = self._waiting.popleft()
            lane.waiting.append(text)

    def _await_work(self) -> bool:
        """Wait until there is a text to write; returns False once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._waiting or any(o.busy for o in self._lanes.values())
            )
            self._hand_out()
            return not self._closed

    def _advance(self, lane: Lane) -> None:
        try:
            lane.advance()
        except Exception as error:  # its requests fail, the server goes on
            self._log(error)
            lane.fail(error)

    def _log(self, error: Exception) -> None:
        traceback = error if self._log_prompts else None
        log.error("writing texts failed: %s", type(error).__name__, exc_info=traceback)


@contextmanager
def ready_to_write(models: Sequence[PreTrainedModel]) -> Iterator[None]:
    """What decoders need around them: no gradients, any kernel, their own attention."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(any_kernels())
        for model in models:
            stack.enter_context(by_rows(model))
        yield
