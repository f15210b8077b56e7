"""Generate completions: trained on tokens, evaluated on generated texts."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import JobRequest
from workflow.config.task_specs import TASK_SPECS
from workflow.config.templates import CHAT, PLAIN
from workflow.core.errors import BadInput, Problem
from workflow.data.pair_rows import PART_END
from workflow.data.records import Record
from workflow.data.shapes.texts import Chats, Completions, Prompt, TextShape
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import SeparateTexts, TextFormat
from workflow.data.text_ids import Frame
from workflow.data.token_cache import TokenizedSplit
from workflow.data.turn_rows import TurnRows
from workflow.inference.decoding import Decoding
from workflow.metrics.text import can_measure
from workflow.models.batch import Batch
from workflow.tasks.base import EvalContext, Examples, Task, check_metric, one_for_each
from workflow.tasks.seq2seq_evaluation import Seq2SeqEvaluation, references_of
from workflow.tasks.target_tokens import collate_tokens, loss_of_tokens


def _joined(rows: Iterable[list[int]], counts: Iterable[int]) -> list[list[int]]:
    """The ids of each record's turns, of which there are so many, with PART_END between them."""
    left = iter(rows)
    return [[i for row in islice(left, count) for i in (*row, PART_END)][:-1] for count in counts]


SAMPLES_SHOWN = 8
"""Maximum number of a record's completions in a table of samples."""


@dataclass(frozen=True)
class Seq2Seq(Task):
    """The task of seq2seq.py.

    Attributes:
        format: how texts become ids; set by `bind_tokenizer`.
        shape: of the records.
        all_turns: whether each message of the assistant in a chat is learned, not only the last.
    """

    format: TextFormat = SeparateTexts(None)
    shape: TextShape = Completions()
    all_turns: bool = False

    @classmethod
    def of(cls, request: JobRequest, shape: TextShape) -> "Seq2Seq":
        """The task of a job on records of this shape."""
        all_turns = request.train_on == "all_turns" and not request.no_train
        return cls(shape=shape, all_turns=all_turns)

    @property
    def unused(self) -> tuple[str, ...]:
        of_texts = ("block_packing", "document_separator")
        return of_texts if isinstance(self.shape, Chats) else ("train_on", *of_texts)

    @property
    def encoding(self) -> str:
        template = self.format.template
        beside = [] if self.shape.name == "completion" else [self.shape.name, self.all_turns]
        template_used = [template] if template != PLAIN else []
        return json.dumps(["seq2seq", *self.format.key, *template_used, *beside])

    def bind_tokenizer(self, tokenizer: PreTrainedTokenizerBase, format: TextFormat) -> "Seq2Seq":
        if isinstance(self.shape, Chats) and format.template != CHAT:
            found = "a template without roles for records with messages"
            hint = "use a model with a chat template, e.g. an instruct model"
            hint = "add --template chat" if tokenizer.chat_template else hint
            raise BadInput([Problem("--template", found, "the model's chat template", hint)])
        return dataclasses.replace(self, format=format)

    def examples(self, split: TokenizedSplit, spec: JobRequest, trains: bool) -> Examples:
        """An example for each record, or in training for each turn of a chat."""
        if not self.all_turns:
            return one_for_each(split, spec)
        cut = {"side": spec.truncation_side, "virtual": spec.virtual_ids}
        last = not trains
        sources = TurnRows.of(split.sources, spec.max_source_length, last, **cut)
        targets = TurnRows.of(split.targets, spec.max_target_length, last)
        return Examples(split, sources, targets, records=sources.records)

    def describe(self, spec: JobSpec) -> str:
        return f"generation: {Decoding.of(spec)}"

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        check_metric(request, TASK_SPECS["seq2seq"], "records with completions")
        references = references_of(tokenizer, split, request.stop, self.shape)
        metric = request.metric_for_best_model
        tokenize = references.bleu_tokenizer if metric == "bleu" else ""
        if can_measure(metric, references, tokenize):
            return
        seen = {
            "bleu": "four tokens in a row",
            "chrf": "a character",
            "rouge2": "two words in a row of a-z and 0-9",
        }
        found = "no eval completion has "
        found += seen.get(metric, "half of its letters in a-z and 0-9, the only ones it counts")
        hint = "choose rougeL_unicode or chrf, which support all scripts"
        if not can_measure("chrf", references, ""):
            hint = "choose rougeL_unicode or exact_match, which count an empty text as correct"
        where = f"--metric_for_best_model {metric}"
        raise BadInput([Problem(where, found, "a metric defined on these completions", hint)])

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        if self.all_turns:
            assert isinstance(self.shape, Chats)
            turns = [self.shape.turns(record) for record in records]
            sources, targets = self._encode(tokenizer, *zip(*chain(*turns), strict=True))
            counts = list(map(len, turns))
            return _joined(sources, counts), _joined(targets, counts)
        prompts = [self.shape.prompt(record) for record in records]
        return self._encode(tokenizer, prompts, [self.shape.answer(one) for one in records])

    def _encode(
        self, tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str | None]
    ) -> tuple[list[list[int]], list[list[int]]]:
        texts = [text if text and text.strip() else "" for text in completions]
        targets = self.format.targets(tokenizer, prompts, texts)
        # An empty completion is trained as an end token; a row without ids has no completion.
        return self.format.sources(tokenizer, prompts), [
            [] if completion is None else ids
            for ids, completion in zip(targets, completions, strict=True)
        ]

    def frames(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Frame]:
        return self.format.frames(tokenizer)

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        return collate_tokens(examples, rows, config)

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        return loss_of_tokens(model, batch, label_smoothing)

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> Seq2SeqEvaluation:
        return Seq2SeqEvaluation(context, spec, self.format, self.shape)

    def sample(self, record: Record, prediction: Sequence[str]) -> Mapping[str, Any]:
        shown = {
            "prompt": str(self.shape.prompt(record)),
            "completion": self.shape.answer(record),
        }
        return shown | {
            f"prediction {number}" if number > 1 else "prediction": text
            for number, text in enumerate(prediction[:SAMPLES_SHOWN], start=1)
        }
