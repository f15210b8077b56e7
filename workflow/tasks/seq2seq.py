"""Prompt to completion: learned token by token, judged by what the model writes."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workflow import metrics
from workflow.batching import Indexes, MicroBatch, batches_by_positions
from workflow.config import JobSpec
from workflow.console import progress_bar
from workflow.generate import Generation, generate
from workflow.losses import summed_cross_entropy
from workflow.models import Model, head_at, packs_rows
from workflow.records import Record, Schema
from workflow.tasks.task import Batch, Evaluation
from workflow.tokens import TokenizedSplit

IGNORED = -100


def _check_completion(value: object) -> tuple[str, str, str] | None:
    if not isinstance(value, str):
        return "", "a text", "write the completion in quotes, or leave the key out to evaluate"
    if not value.strip():
        return "an empty completion", "a text to learn", "write what the model should answer"
    return None


class Seq2Seq:
    """The task of seq2seq.py."""

    name = "seq2seq"
    schema = Schema("prompt", "completion", _check_completion)
    shown: tuple[str, ...] = ("loss", "token_accuracy", "exact_match", "rougeL", "bleu", "chrf")

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        only_ids = {"return_attention_mask": False}
        sources = tokenizer([record["prompt"] for record in records], **only_ids)["input_ids"]
        completions = [record.get("completion", "") for record in records]
        targets = tokenizer(text_target=completions, **only_ids)["input_ids"]
        return sources, [
            ids if text else [] for ids, text in zip(targets, completions, strict=True)
        ]

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, pad_id: int) -> Batch:
        sources = [[split.sources.row(i, spec.max_source_length) for i in row] for row in rows]
        targets = [[split.targets.row(i, spec.max_target_length) for i in row] for row in rows]
        return Batch(
            input_ids=pad_rows([np.concatenate(row) for row in sources], pad_id),
            source_segments=pad_rows([_segments(row) for row in sources], 0),
            labels=pad_rows([np.concatenate(row) for row in targets], IGNORED),
            target_segments=pad_rows([_segments(row) for row in targets], 0),
        )

    def normalizer(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """The number of target tokens."""
        return int(split.targets.lengths(spec.max_target_length, indexes).sum())

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        logits, targets = target_logits(model, batch)
        return summed_cross_entropy(logits, targets, label_smoothing)

    def evaluate(
        self, model: Model, tokenizer: Any, split: TokenizedSplit, spec: JobSpec, step: int
    ) -> Evaluation:
        began = time.perf_counter()
        loss, accuracy = self._token_metrics(model, tokenizer, split, spec)
        generating = time.perf_counter()
        sources = [split.sources.row(i, spec.max_source_length) for i in range(len(split))]
        answers = generate(model, tokenizer, sources, spec)
        generated = time.perf_counter()
        records = [split.record(i) for i in range(len(split))]
        texts = [[answer.text for answer in of_record] for of_record in answers]
        judged = [i for i, record in enumerate(records) if "completion" in record]
        first = [of_record[0] for of_record in answers]
        references = [records[i]["completion"] for i in judged]
        measured = {
            "loss": loss,
            "perplexity": metrics.perplexity(loss),
            "token_accuracy": accuracy,
            **metrics.text_metrics([texts[i] for i in judged], references, spec.seed),
            "mean_length": metrics.mean([answer.tokens for answer in first]),
            "at_limit": metrics.mean([answer.at_limit for answer in first]),
            "empty": metrics.mean([not answer.text for answer in first]),
            "eval_seconds": time.perf_counter() - began,
            "generate_seconds": generated - generating,
        }
        items = [_item(r, a) for r, a in zip(records, answers, strict=True)]
        return Evaluation(measured, items, records, texts)

    def _token_metrics(
        self, model: Model, tokenizer: Any, split: TokenizedSplit, spec: JobSpec
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
        )
        losses, right, tokens = 0.0, 0, 0
        with progress_bar(len(answered), "eval loss") as bar, torch.no_grad():
            for chosen in batches:
                rows = tuple(answered[chosen][:, None])
                batch = self.collate(split, rows, spec, tokenizer.pad_token_id)
                logits, targets = target_logits(model, batch)
                losses += float(summed_cross_entropy(logits, targets))
                right += int((logits.argmax(-1) == targets).sum())
                tokens += len(targets)
                bar.update(len(chosen))
        loss = losses / tokens
        return (loss if math.isfinite(loss) else None), right / tokens

    def items_file(self, spec: JobSpec, step: int) -> str:
        return f"temperature={spec.temperature:.2f}_n={spec.n_samples}_step={step}.json"


def target_logits(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (tokens, vocabulary) at the real target positions only, and the targets (tokens,)."""
    batch = batch.to(model.device)
    real = batch.labels != IGNORED
    with head_at(model, real):
        if packs_rows(model):
            logits = _packed_logits(model, batch)
        else:
            logits = model(
                input_ids=batch.input_ids,
                attention_mask=(batch.source_segments > 0).long(),
                decoder_input_ids=model.prepare_decoder_input_ids_from_labels(batch.labels),
                use_cache=False,
            ).logits
    return logits, batch.labels[real]


def _packed_logits(model: Model, batch: Batch) -> torch.Tensor:
    """Logits of rows in which examples see nothing of each other.

    Exact where positions are relative, for within an example their differences are what they
    would be alone.
    """
    source, target = batch.source_segments, batch.target_segments
    within_source = source[:, None, :, None] == source[:, None, None, :]
    within_target = target[:, None, :, None] == target[:, None, None, :]
    before = torch.ones_like(within_target[:1]).tril()
    encoded = model.get_encoder()(input_ids=batch.input_ids, attention_mask=within_source)
    output = model(
        encoder_outputs=encoded,
        attention_mask=target[:, None, :, None] == source[:, None, None, :],
        decoder_input_ids=shift_segments(batch.labels, target, model.config.decoder_start_token_id),
        decoder_attention_mask=within_target & before,
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits


def shift_segments(labels: torch.Tensor, segments: torch.Tensor, start: int) -> torch.Tensor:
    """What the decoder reads: in each segment `start`, then all its labels but the last."""
    shifted = labels.roll(1, dims=1)
    begins = segments != segments.roll(1, dims=1)
    begins[:, 0] = True
    return torch.where(begins | (segments == 0), start, shifted)


def _segments(parts: Sequence[Any]) -> Any:
    """1 for each id of the first part, 2 of the second, …"""
    return np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])


def pad_rows(rows: Sequence[Any], value: int) -> torch.Tensor:
    """Rows of ids as one int64 tensor (rows, longest), `value` behind the shorter ones."""
    padded = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for filled, row in zip(padded, rows, strict=True):
        filled[: len(row)] = row
    return torch.from_numpy(padded)


def _item(record: Record, answers: Sequence[Generation]) -> dict[str, Any]:
    return {
        "prompt": record["prompt"],
        "generations": [
            {"lm_postprocess": g.text, "full_generated": g.full_text, "scores": g.scores}
            for g in answers
        ],
        "demonstration": record.get("completion"),
        "orig_d": record,
    }
