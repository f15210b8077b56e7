"""Prompt to completion: learned token by token, judged by what the model writes."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workflow.config.job import GREEDY_BELOW, JobSpec
from workflow.core.console import log, progress_bar
from workflow.core.errors import BadInput, Problem
from workflow.data.schema import NO_ANSWER, Record, Schema
from workflow.data.step_planner import Indexes, MicroBatch, batches_by_positions
from workflow.data.text_ids import Frame, frame_of, source_ids, target_ids
from workflow.data.token_cache import CutRows, TokenizedSplit
from workflow.inference.eval_shard import EvalShard
from workflow.inference.generate import Generation, generate
from workflow.inference.sampling import argmax
from workflow.metrics.names import SHOWN, perplexity
from workflow.metrics.text import can_measure
from workflow.models.batch import Batch, make_batch
from workflow.models.families import family_of
from workflow.models.losses import summed_cross_entropy
from workflow.models.state_dict import Model
from workflow.runs.predictions import prediction_files
from workflow.tasks.base import Tell
from workflow.tasks.judged import Judged, References, item_of


def _check_completion(value: object) -> tuple[str, str, str] | None:
    if isinstance(value, str):
        return None
    mend = "write one text" if isinstance(value, list) else "write the completion in quotes"
    return "", "a text", NO_ANSWER if value is None else mend


ANSWERS_SHOWN = 8
"""Of the samples of a record, where a person is to look at them."""


@dataclass(frozen=True)
class Seq2Seq:
    """The task of seq2seq.py.

    Attributes:
        start: the id that decoding starts with, where the model is known.
    """

    start: int | None = None

    schema = Schema("prompt", "completion", _check_completion)
    shown = SHOWN["seq2seq"]

    @classmethod
    def of(cls, spec: JobSpec) -> "Seq2Seq":
        return cls()

    @property
    def encoding(self) -> str:
        return json.dumps(["seq2seq", self.start])

    def bind_tokenizer(self, tokenizer: Any, start: int) -> "Seq2Seq":
        return Seq2Seq(start)

    def optimize_for_task(self, model: Model) -> None:
        pass

    def describe(self, spec: JobSpec) -> str:
        decoding = f"greedy (temperature below {GREEDY_BELOW})"
        if spec.num_beams > 1:
            decoding = f"the best of {spec.num_beams} beams"
        if not spec.greedy:
            decoding = f"{spec.n_samples} samples at temperature {spec.temperature:g}"
        return f"answers are at most {spec.max_new_tokens} tokens, {decoding}"

    def check(self, tokenizer: Any, split: TokenizedSplit, spec: JobSpec) -> None:
        references = References(tokenizer, split, spec.stop)
        metric = spec.metric_for_best_model
        tokenize = references.bleu_tokenizer if metric == "bleu" else ""
        if can_measure(metric, references, tokenize):
            return
        seen = {
            "bleu": "four tokens in a row",
            "chrf": "a character",
            "rouge2": "two words in a row of a-z and 0-9",
        }
        found = "eval completions of which none has "
        found += seen.get(metric, "half its letters in a-z and 0-9, which is all it sees")
        mend = "choose rougeL_unicode or chrf, which see all scripts"
        if not can_measure("chrf", references, ""):
            mend = "choose rougeL_unicode or exact_match: an empty answer is right there"
        where = f"--metric_for_best_model {metric}"
        raise BadInput([Problem(where, found, "a metric that has a value of them", mend)])

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        sources = source_ids(tokenizer, [record["prompt"] for record in records])
        completions = [record.get("completion", "") for record in records]
        spoken = [text if text.strip() else "" for text in completions]
        targets = target_ids(tokenizer, spoken, self.start)
        # An empty completion is learned as an end mark: a row without ids is no answer at all.
        return sources, [
            ids if "completion" in record else []
            for ids, record in zip(targets, records, strict=True)
        ]

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {
            "source": frame_of(*source_ids(tokenizer, ["", "a"])),
            "target": frame_of(*target_ids(tokenizer, ["", "a"], self.start)),
        }

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, config: Any) -> Batch:
        longest, side = spec.max_source_length, spec.truncation_side
        targets = [[split.targets.row(i, spec.max_target_length) for i in row] for row in rows]
        # What is to be said at a position is read at the next.
        start = [config.decoder_start_token_id]
        inputs = [[np.concatenate([start, ids[:-1]]) for ids in row] for row in targets]
        labels = np.concatenate([ids for row in targets for ids in row])
        return make_batch(
            [[split.sources.row(i, longest, side) for i in row] for row in rows],
            inputs,
            torch.from_numpy(labels.astype(np.int64)),
            config.pad_token_id,
        )

    def loss_denominator(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """The number of target tokens."""
        return int(split.targets.lengths(spec.max_target_length, indexes).sum())

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        batch = batch.to(model.device)
        return summed_cross_entropy(
            family_of(model.config).target_logits(model, batch), batch.targets, label_smoothing
        )

    def evaluate(
        self,
        model: Model,
        tokenizer: Any,
        split: TokenizedSplit,
        spec: JobSpec,
        shard: EvalShard,
        tell: Tell,
    ) -> dict[str, Any] | None:
        began = time.perf_counter()
        loss, accuracy = self._token_metrics(model, split, spec, shard)
        references = References(tokenizer, split, spec.stop)
        generating = time.perf_counter()
        sources = CutRows(split.sources, spec.max_source_length, spec.truncation_side)
        results = (
            (index, [vars(answer) for answer in answers])
            for index, answers in generate(model, tokenizer, sources, spec, shard)
        )
        judged = Judged(spec.seed, references.bleu_tokenizer)

        def judge(indexes: range, found: Iterator[list[dict[str, Any]]]) -> None:
            for index, of_record in zip(indexes, found, strict=True):
                record, answers = split.record(index), [Generation(**one) for one in of_record]
                reference = references.of(record)
                judged.add(reference, answers)
                item = item_of(record, reference, answers)
                tell(record, [answer.text for answer in answers], item)

        with shard.keeping(results, len(split)) as kept:
            generated = time.perf_counter()
            shard.collect(kept, len(split), judge)
        if not shard.world.is_rank_zero:
            return None
        judged.tell()
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "token_accuracy": accuracy,
            **judged.metrics(),
            "eval_seconds": time.perf_counter() - began,
            "generate_seconds": generated - generating,
        }

    def _token_metrics(
        self, model: Model, split: TokenizedSplit, spec: JobSpec, shard: EvalShard
    ) -> tuple[float | None, float | None]:
        """Mean token loss and share of right tokens over the real target tokens of all answers."""
        answered = np.flatnonzero(split.answered)
        if len(answered) == 0:
            return None, None
        batches = batches_by_positions(
            split.sources.lengths(spec.max_source_length, answered),
            split.targets.lengths(spec.max_target_length, answered),
            spec.micro_batch_tokens,
            spec.eval_batch_size,
            shard.world.size,
        )
        targets = split.targets.lengths(spec.max_target_length, answered)
        costs = [int(targets[batch].sum()) for batch in batches]
        losses, right, tokens, lost = 0.0, 0, 0, 0
        with progress_bar(len(answered), "eval loss") as bar, torch.no_grad():
            for chosen, counts in shard.of(batches, costs):
                rows = tuple(answered[chosen][:, None])
                batch = self.collate(split, rows, spec, model.config).to(model.device)
                logits = family_of(model.config).target_logits(model, batch)
                if counts:
                    loss = float(summed_cross_entropy(logits, batch.targets))
                    losses += loss
                    lost += 0 if math.isfinite(loss) else _count_lost(logits, batch)
                    right += int((argmax(logits) == batch.targets).sum())
                    tokens += len(batch.targets)
                bar.update(len(chosen) * shard.world.size)
        sums = shard.total([losses, right, tokens, lost])
        loss = sums[0] / sums[2]
        if sums[3] and shard.world.is_rank_zero:
            log.warning(
                "the losses of %d of %d records are no finite numbers, so loss is null",
                sums[3], len(answered),
            )  # fmt: skip
        return (loss if math.isfinite(loss) else None), sums[1] / sums[2]

    def sample(self, record: Record, prediction: Sequence[str]) -> Mapping[str, Any]:
        shown = {"prompt": record["prompt"], "expected": record.get("completion")}
        return shown | {
            f"answer {number}" if number > 1 else "answer": text
            for number, text in enumerate(prediction[:ANSWERS_SHOWN], start=1)
        }

    def prediction_files(self, spec: JobSpec, step: int) -> Sequence[str]:
        return prediction_files(vars(spec), step)


def _count_lost(logits: torch.Tensor, batch: Batch) -> int:
    """Of how many rows of a batch, a record each, the loss is no finite number."""
    lengths = (batch.target_segments > 0).sum(-1).tolist()
    rows = zip(logits.split(lengths), batch.targets.split(lengths), strict=True)
    return sum(not math.isfinite(summed_cross_entropy(*row)) for row in rows)
