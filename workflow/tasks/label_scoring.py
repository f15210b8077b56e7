"""Text to a score: the probability of yes against no as the first word of the answer."""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from workflow.config.job import JobSpec
from workflow.core.console import log, progress_bar
from workflow.core.errors import BadInput, Problem, shorten
from workflow.data.schema import NO_ANSWER, Record, Schema
from workflow.data.step_planner import Indexes, MicroBatch, batches_by_positions
from workflow.data.text_ids import Frame, frame_of, source_ids
from workflow.data.token_cache import TokenizedSplit
from workflow.inference.eval_shard import EvalShard
from workflow.metrics.names import SHOWN
from workflow.metrics.scores import in_range, score_metrics
from workflow.models.batch import Batch, make_batch
from workflow.models.families import family_of
from workflow.models.state_dict import Model
from workflow.runs.predictions import prediction_files
from workflow.tasks.base import Tell

Floats = npt.NDArray[np.float64]
MORE_CLASSES = (
    "clf.py knows two classes: for more take seq2seq.py, with the class's name as completion"
)
SCORED_AT_ONCE = 2
"""Positions scored at once over those trained at once: of most layers nothing is kept."""


@dataclass(frozen=True)
class Classification:
    """The task of clf.py.

    Inside, a target is a number in [0, 1]: 0 is `target_min`, 1 is `target_max`. It is kept as the
    32 bits of a float in the place of a token.

    Attributes:
        label_ids: the ids of the words for no and yes, where the tokenizer is known.
    """

    template: str
    label_words: tuple[str, ...]
    target_min: float
    target_max: float
    label_ids: tuple[int, ...] = ()

    shown = SHOWN["clf"]

    @classmethod
    def of(cls, spec: JobSpec) -> "Classification":
        return cls(spec.template, spec.label_words, spec.target_min, spec.target_max)

    @property
    def encoding(self) -> str:
        return json.dumps(["clf", self.template, self.target_min, self.target_max])

    @property
    def _range(self) -> tuple[float, float]:
        return self.target_min, self.target_max

    @property
    def schema(self) -> Schema:
        return Schema("input", "target", self._check_target, self._range, self.template)

    def _check_target(self, value: object) -> tuple[str, str, str] | None:
        booleans = self._range == (0, 1)  # of another range, true could mean its 1 or its end
        number = isinstance(value, int | float) and (booleans or not isinstance(value, bool))
        if number and self.target_min <= value <= self.target_max:  # type: ignore[operator]
            return None
        expected = f"a number from {self.target_min:g} to {self.target_max:g}"
        expected += ", true or false" if booleans else ""
        mend = "correct it"
        if isinstance(value, int) and booleans:
            mend = f"{MORE_CLASSES}; grades want --target_min and --target_max"
        elif number:
            mend = "correct it, or set --target_min and --target_max to the range of all targets"
        elif value is None:
            mend = NO_ANSWER
        elif isinstance(value, str):
            mend = f"write a number, without quotes; {MORE_CLASSES}"
        elif isinstance(value, list):
            mend = MORE_CLASSES
        return shorten(value) if isinstance(value, str) else "", expected, mend

    def bind_tokenizer(self, tokenizer: Any, start: int) -> "Classification":
        pieces = [
            tokenizer(word, add_special_tokens=False)["input_ids"] for word in self.label_words
        ]
        problems = []
        for word, ids in zip(self.label_words, pieces, strict=True):
            if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
                counted = f"{len(ids)} pieces" if len(ids) != 1 else "no piece"
                shown = " ".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing"
                found = f"{counted} of this vocabulary: {shown}"
                expected = "a word that is one piece, known to the model"
                mend = "choose two other words, or a model whose vocabulary has them"
                problems.append(Problem(f"--label_words {word}", found, expected, mend))
        label_ids = tuple(ids[0] for ids in pieces if ids)
        if not problems and label_ids[0] == label_ids[1]:
            found = f"the same piece for both: {tokenizer.convert_ids_to_tokens(label_ids[0])}"
            where = f"--label_words {' '.join(self.label_words)}"
            mend = "choose two other words"
            problems.append(Problem(where, found, "two different pieces", mend))
        if problems:
            raise BadInput(problems)
        return dataclasses.replace(self, label_ids=label_ids)

    def optimize_for_task(self, model: Model) -> None:
        family_of(model.config).optimize_for_scoring(model)

    def check(self, tokenizer: Any, split: TokenizedSplit, spec: JobSpec) -> None:
        pass

    def describe(self, spec: JobSpec) -> str:
        no, yes = (
            f"{word} ({index})"
            for word, index in zip(self.label_words, self.label_ids, strict=True)
        )
        return f"a score is the probability of {yes} against {no} as the answer's first word"

    def encode(
        self, tokenizer: Any, records: Sequence[Record]
    ) -> tuple[list[list[int]], list[list[int]]]:
        texts = [self.schema.read(record) for record in records]
        return source_ids(tokenizer, texts), [
            [_bits(self._from_range(record["target"]))] if "target" in record else []
            for record in records
        ]

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {"source": frame_of(*source_ids(tokenizer, ["", "a"])), "target": (0, 0)}

    def _from_range(self, target: float) -> float:
        return (float(target) - self.target_min) / (self.target_max - self.target_min)

    def collate(self, split: TokenizedSplit, rows: MicroBatch, spec: JobSpec, config: Any) -> Batch:
        longest, side = spec.max_source_length, spec.truncation_side
        start = np.array([config.decoder_start_token_id])
        return make_batch(
            [[split.sources.row(i, longest, side) for i in row] for row in rows],
            [[start] * len(row) for row in rows],
            _targets(split, np.concatenate(rows)),
            config.pad_token_id,
        )

    def loss_denominator(self, split: TokenizedSplit, indexes: Indexes, spec: JobSpec) -> int:
        """The number of examples."""
        return len(indexes)

    def loss(self, model: Model, batch: Batch, label_smoothing: float) -> torch.Tensor:
        """The cross-entropy of the soft targets: their KL divergence up to a constant."""
        batch = batch.to(model.device)
        return _losses(
            family_of(model.config).target_logits(model, batch, self.label_ids), batch.targets
        ).sum()

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
        # On the main process alone, the logits of no and yes, and the targets in [0, 1].
        records = len(split) if shard.world.is_rank_zero else 0
        logits = np.zeros((records, 2), np.float32)
        targets = np.full(records, np.nan)

        def note(indexes: range, found: Iterator[list[float]]) -> None:
            here = slice(indexes.start, indexes.stop)
            logits[here] = list(found)
            scores = self._to_range(_scores(logits[here]))
            for index, pair, score in zip(indexes, logits[here].tolist(), scores, strict=True):
                record = split.record(index)
                if "target" in record:
                    targets[index] = self._from_range(record["target"])
                item = {"orig_d": record, "pred_score": score}
                tell(record, score, item | {"logits": None if score is None else pair})

        with shard.keeping(self._score(model, split, spec, shard), len(split)) as kept:
            scored = time.perf_counter()
            shard.collect(kept, len(split), note)
        if not shard.world.is_rank_zero:
            return None
        measured = self._judge(logits, targets, spec.seed)
        measured["eval_seconds"] = time.perf_counter() - began
        measured["score_seconds"] = scored - began
        return measured

    def _to_range(self, scores: Floats) -> list[float | None]:
        """Scores in the user's range; None for what is no number."""
        scaled = self.target_min + scores * (self.target_max - self.target_min)
        scaled = np.minimum(scaled, self.target_max)  # which rounding may pass
        return [score if math.isfinite(score) else None for score in scaled.tolist()]

    def _score(
        self, model: Model, split: TokenizedSplit, spec: JobSpec, shard: EvalShard
    ) -> Iterator[tuple[int, list[float]]]:
        """The index and the float32 logits of no and yes of each record in this share."""
        lengths = split.sources.lengths(spec.max_source_length)
        at_once = SCORED_AT_ONCE * spec.micro_batch_tokens
        batches = batches_by_positions(
            lengths, np.ones_like(lengths), at_once, spec.eval_batch_size, shard.world.size
        )
        costs = [int(lengths[batch].sum()) for batch in batches]
        with progress_bar(len(split), "score") as bar, torch.no_grad():
            for chosen, counts in shard.of(batches, costs):
                batch = self.collate(split, tuple(chosen[:, None]), spec, model.config)
                logits = family_of(model.config).target_logits(
                    model, batch.to(model.device), self.label_ids
                )
                if counts:
                    yield from zip(chosen.tolist(), logits.tolist(), strict=True)
                bar.update(len(chosen) * shard.world.size)

    def _judge(
        self,
        logits: npt.NDArray[np.float32],
        targets: Floats,
        seed: int,
    ) -> dict[str, Any]:
        """The metrics over the records with a target; errors are in the user's range.

        Args:
            targets: of all records, in [0, 1]; NaN where there is none.
        """
        scores = _scores(logits)
        answered, finite = ~np.isnan(targets), np.isfinite(scores)
        if not finite.all():
            log.warning(
                "the scores of %d of %d records are no finite numbers, and left out of the metrics",
                (~finite).sum(), len(finite),
            )  # fmt: skip
        if not answered.any():
            return {}
        if not (answered & finite).any():
            return {"loss": None}
        answered = np.flatnonzero(answered & finite)
        scores = scores[answered]
        learned = torch.from_numpy(targets[answered].astype(np.float32))
        losses = _losses(torch.from_numpy(logits[answered]), learned)
        measured = {
            "loss": float(losses.mean()),
            **score_metrics(scores, targets[answered], seed),
        }
        return in_range(measured, self.target_min, self.target_max)

    def sample(self, record: Record, prediction: float | None) -> Mapping[str, Any]:
        return {"input": record["input"], "target": record.get("target"), "score": prediction}

    def prediction_files(self, spec: JobSpec, step: int) -> Sequence[str]:
        return prediction_files(vars(spec), step)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def _targets(split: TokenizedSplit, indexes: Indexes) -> torch.Tensor:
    """The targets of these records, float32 in [0, 1]; NaN where there is none."""
    found = np.full(len(indexes), np.nan, np.float32)
    for place in np.flatnonzero(split.answered[indexes]):
        found[place] = split.targets.row(indexes[place], longest=1).view(np.float32)[0]
    return torch.from_numpy(found)


def _scores(logits: npt.NDArray[np.float32]) -> Floats:
    """The probability of yes under logits (records, 2) of no and yes; NaN where one is infinite."""
    scores: Floats = torch.from_numpy(logits).double().softmax(-1)[:, 1].contiguous().numpy()
    return np.where(np.isfinite(logits).all(-1), scores, np.nan)


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each target (examples,) under logits (examples, 2) of no and yes."""
    logs = logits.float().log_softmax(-1)
    return -(targets * logs[:, 1] + (1 - targets) * logs[:, 0])
