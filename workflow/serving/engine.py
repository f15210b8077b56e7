"""One batch for all requests: texts join it and leave it at every token."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.core.console import log
from workflow.distributed.device import any_kernels
from workflow.distributed.world import World
from workflow.inference.causal_decoder import by_rows
from workflow.inference.decoder import Decoder
from workflow.inference.decoding import Decoding, PromptBatch, end_ids
from workflow.inference.decoding_loop import own_decoder
from workflow.inference.eval_shard import EvalShard
from workflow.inference.hf_generate import hf_generate
from workflow.inference.rows import ON_CPU, Shapes
from workflow.inference.sampling import argmax
from workflow.serving.texts import Text


class TextEngine:
    """Writes texts in a thread of its own.

    The decoder is that of evaluations, so that a text has the ids and logits that an evaluation
    gives it, whoever else asks. Models without one generate a text at a time.

    Attributes:
        waiting, running: the texts that have no place yet, and those that do.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, most: Shapes):
        """Take a model in evaluation mode.

        Args:
            most: texts written together, with a prompt each, and the tokens of both.
        """
        self._model, self._tokenizer, self._ends = model, tokenizer, end_ids(model)
        self.waiting: deque[Text] = deque()
        self.running: dict[int, Text] = {}
        self._changed = threading.Condition()
        self._closed = False
        kind = own_decoder(model, Decoding(max_new_tokens=most.length), most.source)
        self._decoder: Decoder | None = None
        if kind is not None:
            self._decoder = kind(model, most, ON_CPU)
        self._number = 0
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    def add(self, texts: Sequence[Text]) -> None:
        """Write texts as soon as there are places for them, in the order of their coming."""
        with self._changed:
            self.waiting.extend(texts)
            self._changed.notify()

    def close(self) -> None:
        """End all texts, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        with ExitStack() as stack:
            for context in (torch.no_grad(), any_kernels(), by_rows(self._model)):
                stack.enter_context(context)
            while self._await_work():
                try:
                    self._step()
                except Exception as error:  # the requests fail, the server goes on
                    log.exception("a step of generation failed")
                    self._fail(error)

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.waiting or self.running)
            return not self._closed

    def _step(self) -> None:
        """Let texts leave and join, and write a token of each."""
        if self._decoder is None:
            self._write_alone(self.waiting.popleft())
            return
        self._join(self._decoder)
        if self.running:
            self._write(self._decoder)

    def _join(self, decoder: Decoder) -> None:
        while decoder.free and self.waiting:
            text = self.waiting.popleft()
            if text.finish_reason is None:
                decoder.add(self._number, [text.prompt])
                self.running[self._number] = text
                self._number += 1

    def _write(self, decoder: Decoder) -> None:
        rows = decoder.rows
        shapes, _ = rows.ahead()
        logits = decoder.logits(shapes)
        texts = [self.running[number] for number in rows.numbers_of_texts.tolist()]
        tokens = argmax(logits).tolist()
        for row, text in enumerate(texts):
            if text.finish_reason is None:
                if not text.choosing.is_plain:
                    tokens[row] = text.choose(logits[row])
                text.add(tokens[row], logits[row], self._ends, self._tokenizer)
        rows.ids[: len(rows)] = torch.tensor(tokens, device=rows.ids.device)
        rows.positions[: len(rows)] += 1
        going = np.array([text.finish_reason is None for text in texts])
        if not going.all():
            ended = rows.numbers_of_texts[~going].tolist()
            decoder.keep(going)
            for number in ended:
                del self.running[number]
        for text in texts:
            text.tell(text)

    def _write_alone(self, text: Text) -> None:
        """Write a text by `model.generate`, whose tokens come all at once."""
        if text.finish_reason is not None:
            return
        shard = EvalShard(World())
        batch = PromptBatch([list(text.prompt)], [0])
        found = hf_generate(self._model, batch, text.choosing.decoding, shard)
        number = 0 if len(found.sequences) == 1 else text.number
        for token in found.sequences[number]:
            text.add(token, torch.empty(0), self._ends, self._tokenizer)
        text.finish_reason = text.finish_reason or "length"
        text.tell(text)

    def _fail(self, error: Exception) -> None:
        texts = [*self.running.values(), *self.waiting]
        self.waiting.clear()
        self.running.clear()
        if self._decoder is not None:
            self._decoder.keep(np.zeros(len(self._decoder.rows), np.bool_))
        for text in texts:
            text.error = error
            text.cancel()
            text.tell(text)
