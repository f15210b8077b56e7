"""The texts of one served model: those that wait, and those that are being written."""

from collections import deque
from typing import Any

import numpy as np
import torch

from workflow.distributed.stop import Stop
from workflow.distributed.world import World
from workflow.inference.decoding import Decoding, PromptBatch, end_ids
from workflow.inference.decoding_loop import advance, own_decoder
from workflow.inference.eval_shard import EvalShard
from workflow.inference.hf_generate import hf_generate
from workflow.inference.rows import ON_CPU, Going, Shapes
from workflow.inference.sampling import argmax
from workflow.serving.model import ServedModel
from workflow.serving.texts import Text


class Lane:
    """Writes a model's texts, each with its own settings: used by one thread.

    Models without a decoder of their own generate a text at a time.

    Attributes:
        waiting, running: the texts that have no place yet, and those that do, by their numbers.
    """

    def __init__(self, model: ServedModel, most: Shapes):
        """Make room for `most`."""
        self._model, self._tokenizer = model.model, model.job.tokenizer
        self._ends = end_ids(self._model)
        self.waiting: deque[Text] = deque()
        self.running: dict[int, Text] = {}
        self._number = 0
        self._joining: list[Text] = []
        kind = own_decoder(self._model, Decoding(max_new_tokens=most.length), most.source)
        # On a GPU too each token is looked at: whoever reads a stream waits for it.
        self._decoder = None if kind is None else kind(self._model, most, ON_CPU)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def decodes(self) -> bool:
        """Whether the model has a decoder of its own."""
        return self._decoder is not None

    def advance(self) -> None:
        """Write the next token of each text."""
        if self._decoder is not None:
            advance(self._decoder, self)
        elif self.waiting:
            self._write_alone()

    def join(self) -> bool:
        decoder: Any = self._decoder
        while self.waiting and len(self._joining) < decoder.free:
            self._begin(self.waiting.popleft())
        first = self._number
        decoder.add(first, [text.prompt for text in self._joining])
        self.running.update(enumerate(self._joining, first))
        self._number += len(self._joining)
        self._joining = []
        return bool(self.running)

    def _begin(self, text: Text) -> None:
        """Let a text join; compute the log probabilities of its prompt, if asked for."""
        if text.finish_reason is not None:  # nobody waits for it any more
            return
        self._joining.append(text)
        if text.choosing.reads_prompt:
            ids = torch.tensor([text.prompt], device=self._model.device)
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
            output = self._model(input_ids=ids, position_ids=positions, use_cache=False)
            text.read(output.logits[0, :-1].float())
        if not text.choosing.decoding.max_new_tokens:
            self._joining.pop()
            text.end("length")
            text.tell()

    def write(self, shapes: Shapes) -> None:
        decoder: Any = self._decoder
        rows, logits = decoder.rows, decoder.logits(shapes)
        texts = [self.running[number] for number in rows.numbers_of_texts.tolist()]
        tokens = argmax(logits).tolist()
        for row, text in enumerate(texts):
            if text.finish_reason is None:
                if not text.choosing.is_plain:
                    tokens[row] = text.choose(logits[row])
                text.add(tokens[row], logits[row], self._ends, self._tokenizer)
        here = slice(len(texts))
        rows.ids[here] = torch.tensor(tokens, device=rows.ids.device)
        rows.positions[here] += 1
        going = [text.finish_reason is None for text in texts]
        rows.going[here] = torch.tensor(going, device=rows.going.device)

    def leave(self, going: Going) -> None:
        if not going.all():
            decoder: Any = self._decoder
            ended = decoder.rows.numbers_of_texts[~going].tolist()
            decoder.keep(going)
            for number in ended:
                del self.running[number]

    def end(self) -> None:
        """End all texts; called in any thread."""
        for text in (*self.running.copy().values(), *self._joining, *self.waiting.copy()):
            text.end()

    def fail(self, error: Exception) -> None:
        """End all texts with an error."""
        texts = [*self.running.values(), *self._joining, *self.waiting]
        self.waiting.clear()
        self.running.clear()
        self._joining = []
        for text in texts:
            text.error = error
            text.end()
            text.tell()
        if self._decoder is not None:  # may fail as well, e.g. on a lost GPU
            self._decoder.keep(np.zeros(len(self._decoder.rows), np.bool_))

    def _write_alone(self) -> None:
        """Write the texts of a prompt by `model.generate`, whose tokens come all at once."""
        first = self.waiting.popleft()
        self._begin(first)
        while self.waiting and self.waiting[0].is_sibling_of(first):
            self._begin(self.waiting.popleft())
        if self._joining:
            shard, batch = EvalShard(World(), stop=_Left(self._joining)), [list(first.prompt)]
            found = hf_generate(
                self._model, PromptBatch(batch, [0]), first.choosing.decoding, shard
            )
            for text in self._joining:
                number = min(text.number, len(found.sequences) - 1)  # greedy ones are all alike
                for token in found.sequences[number]:
                    if text.finish_reason is None:
                        text.add(token, None, self._ends, self._tokenizer)
                text.end("length")
                text.tell()
        self._joining = []


class _Left(Stop):
    """Ends a generation whose texts nobody waits for any more."""

    def __init__(self, texts: list[Text]):
        super().__init__()
        self._texts = texts

    def requested(self) -> str | None:
        return "cancelled" if all(text.finish_reason for text in self._texts) else None
