"""Learn plain text: the next token, or for encoder-decoders what hidden spans hold."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.config.task_specs import OPENING, TEXT
from workflow.config.templates import PLAIN
from workflow.core.errors import BadInput, Problem, shorten
from workflow.data.documents import NextTokens, Openings, Pieces
from workflow.data.records import Record
from workflow.data.shapes.texts import Documents
from workflow.data.span_corruption import Spans, longest_text, sentinels_of
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import ContinuedText, SeparateTexts, TextFormat
from workflow.data.text_ids import Frame
from workflow.data.token_cache import TokenizedSplit
from workflow.inference.decoding import Decoding
from workflow.models.batch import Batch
from workflow.tasks.base import EvalContext, Examples, Task, check_metric
from workflow.tasks.target_tokens import collate_tokens, loss_of_tokens
from workflow.tasks.text_evaluation import TextEvaluation


@dataclass(frozen=True)
class LanguageModeling(Task):
    """The task of seq2seq.py for plain text.

    A document is stored as a target: decoder-only models read the mark before it and learn each
    token after the one before, and the end mark; encoder-decoders learn span corruption.

    Attributes:
        format: how texts become ids; set by `bind_tokenizer`, like the following.
        before: ids that a decoder-only model reads before a document.
        sentinels: the ids of an encoder-decoder's marks of hidden spans.
        end: the id behind a document.
    """

    format: TextFormat = SeparateTexts(None)
    shape: Documents = Documents()
    before: tuple[int, ...] = ()
    sentinels: tuple[int, ...] = ()
    end: int = 0
    unused = ("train_on", "truncation_side")

    @property
    def encoding(self) -> str:
        return json.dumps(["text", *self.format.key, *self.before])

    def bind_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, format: TextFormat
    ) -> "LanguageModeling":
        if format.template != PLAIN:
            found = f"{shorten(format.template)} for plain text, which has no prompts"
            raise BadInput([Problem("--template", found, "no template", "remove it")])
        bound = dataclasses.replace(self, format=format, end=tokenizer.eos_token_id)
        if isinstance(format, ContinuedText):
            return dataclasses.replace(bound, before=format.before_text(tokenizer))
        sentinels = sentinels_of(tokenizer)
        if not sentinels:
            found = "plain text for an encoder-decoder without tokens for hidden spans"
            expected = "a model like T5, with <extra_id_0>, or a decoder-only model"
            hint = "choose such a model, or write prompts and completions"
            raise BadInput([Problem("--data_name", found, expected, hint)])
        return dataclasses.replace(bound, sentinels=sentinels)

    def limits(self, request: JobRequest) -> Mapping[str, int | None]:
        return {"prompts": None, "completions": None}

    def longest_piece(self, spec: JobRequest) -> int:
        """The most tokens of a document that are learned together."""
        if not self.sentinels:
            return spec.max_source_length
        return longest_text(spec.max_source_length, spec.max_target_length, len(self.sentinels))

    def examples(self, split: TokenizedSplit, spec: JobRequest, trains: bool) -> Examples:
        """Pieces of documents; in training those of a block are drawn together."""
        rows, virtual = split.targets, spec.virtual_ids
        tokens = rows.lengths(sys.maxsize) - 1
        joined = trains and bool(spec.block_packing)
        pieces = Pieces.of(tokens, self.longest_piece(spec), joined)
        if not self.sentinels:
            read = NextTokens(rows, pieces, taught=False, virtual=virtual)
            return _examples(split, read, NextTokens(rows, pieces, taught=True))

        def at_step(step: int) -> Examples:
            drawn = rows, pieces, self.sentinels
            read = Spans(*drawn, taught=False, seed=spec.seed, step=step, virtual=virtual)
            return _examples(split, read, dataclasses.replace(read, taught=True, virtual=0))

        return dataclasses.replace(at_step(0), at_step=at_step if trains else None)

    def openings(self, split: TokenizedSplit, spec: JobRequest) -> Openings:
        """What an evaluation continues: the first tokens of each document."""
        virtual = range(-spec.virtual_ids, 0)
        after = (self.sentinels[0], self.end) if self.sentinels else ()
        return Openings(split.targets, len(self.before), (*virtual, *self.before), after)

    def describe(self, spec: JobSpec) -> str:
        what = "hidden spans" if self.sentinels else "next tokens"
        tokens = self.longest_piece(spec)
        examples = f"pieces of documents of at most {tokens} tokens"
        if spec.block_packing:
            examples = f"blocks of {tokens} tokens, which documents fill"
        continued = f"continuations of the first {OPENING} tokens: {Decoding.of(spec)}"
        return f"text: {what} of {examples}; {continued}"

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        check_metric(request, TEXT, "plain text")

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        rows = self.format.parts(tokenizer, [record["text"] for record in records], begins=True)
        return [[] for _ in rows], [[*self.before, *row, self.end] for row in rows]

    def frames(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Frame]:
        return {"source": (0, 0), "target": (0, 0)}

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        return collate_tokens(examples, rows, config)

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        return loss_of_tokens(model, batch, label_smoothing)

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> TextEvaluation:
        openings = self.openings(context.examples.split, spec)
        return TextEvaluation(context, spec, self.format, openings, bool(self.sentinels))

    def sample(self, record: Record, prediction: Sequence[str]) -> Mapping[str, Any]:
        return {"text": record["text"], "continuation": prediction[0]}


def _examples(split: TokenizedSplit, read: Any, taught: Any) -> Examples:
    pieces: Pieces = read.pieces
    return Examples(split, read, taught, pieces.documents, pieces.blocks)
