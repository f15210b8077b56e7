"""Generate completions: trained on tokens, evaluated on generated texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec
from workflow.config.request import GREEDY_BELOW, JobRequest
from workflow.config.templates import PLAIN
from workflow.core.errors import BadInput, Problem
from workflow.data.schema import NO_ANSWER, Record, Schema
from workflow.data.step_planner import MicroBatch
from workflow.data.text_format import SeparateTexts, TextFormat
from workflow.data.text_ids import Frame
from workflow.data.token_cache import TokenizedSplit
from workflow.metrics.text import can_measure
from workflow.models.batch import Batch, Example
from workflow.models.families import family_of
from workflow.models.losses import summed_cross_entropy
from workflow.tasks.base import EvalContext, Examples, Task
from workflow.tasks.seq2seq_evaluation import Seq2SeqEvaluation, references_of


def _check_completion(value: object) -> tuple[str, str, str] | None:
    if isinstance(value, str):
        return None
    hint = "write one text" if isinstance(value, list) else "write the completion in quotes"
    return "", "text", NO_ANSWER if value is None else hint


SAMPLES_SHOWN = 8
"""Maximum number of a record's completions in a table of samples."""


@dataclass(frozen=True)
class Seq2Seq(Task):
    """The task of seq2seq.py.

    Attributes:
        format: how texts become ids; set by `bind_tokenizer`.
    """

    format: TextFormat = SeparateTexts(None)

    schema = Schema(("prompt",), "completion", _check_completion)

    @property
    def encoding(self) -> str:
        template = self.format.template
        return json.dumps(["seq2seq", *self.format.key, *([template] if template != PLAIN else [])])

    def bind_tokenizer(self, tokenizer: PreTrainedTokenizerBase, format: TextFormat) -> "Seq2Seq":
        return Seq2Seq(format)

    def describe(self, spec: JobSpec) -> str:
        decoding = f"greedy decoding (temperature below {GREEDY_BELOW})"
        if spec.num_beams > 1:
            decoding = f"beam search with {spec.num_beams} beams"
        if not spec.greedy:
            samples = f"{spec.n_samples} sample{'s' * (spec.n_samples > 1)} per prompt"
            decoding = f"{samples} at temperature {spec.temperature:g}"
        return f"generation: at most {spec.max_new_tokens} tokens, {decoding}"

    def check(
        self, tokenizer: PreTrainedTokenizerBase, split: TokenizedSplit, request: JobRequest
    ) -> None:
        references = references_of(tokenizer, split, request.stop)
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
        prompts = [record["prompt"] for record in records]
        completions = [record.get("completion", "") for record in records]
        texts = [text if text.strip() else "" for text in completions]
        targets = self.format.targets(tokenizer, prompts, texts)
        # An empty completion is trained as an end token; a row without ids has no completion.
        return self.format.sources(tokenizer, prompts), [
            ids if "completion" in record else []
            for ids, record in zip(targets, records, strict=True)
        ]

    def frames(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Frame]:
        return self.format.frames(tokenizer)

    def collate(self, examples: Examples, rows: MicroBatch, config: PreTrainedConfig) -> Batch:
        targets = [[examples.targets[index] for index in row] for row in rows]
        labels = np.concatenate([ids for row in targets for ids in row]).astype(np.int64)
        # The label of a position is what the model reads at the next.
        read = [
            [Example(examples.sources[index], ids[:-1]) for index, ids in zip(*row, strict=True)]
            for row in zip(rows, targets, strict=True)
        ]
        return family_of(config).collate(config, read, torch.from_numpy(labels))

    def loss(self, model: PreTrainedModel, batch: Batch, label_smoothing: float) -> torch.Tensor:
        batch = batch.to(model.device)
        logits = family_of(model.config).target_logits(model, batch)
        return summed_cross_entropy(logits, batch.targets, label_smoothing)

    def evaluation(self, context: EvalContext, spec: PlannedSpec) -> Seq2SeqEvaluation:
        collate = partial(self.collate, context.examples, config=context.model.config)
        return Seq2SeqEvaluation(context, spec, collate, self.format)

    def sample(self, record: Record, prediction: Sequence[str]) -> Mapping[str, Any]:
        shown = {"prompt": record["prompt"], "completion": record.get("completion")}
        return shown | {
            f"prediction {number}" if number > 1 else "prediction": text
            for number, text in enumerate(prediction[:SAMPLES_SHOWN], start=1)
        }
