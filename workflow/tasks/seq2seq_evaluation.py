"""Evaluation of completions: token metrics, and metrics of generated texts."""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from workflow.config.job import PlannedSpec
from workflow.core.console import inform_once, log, warn_once
from workflow.data.example_lengths import Indexes
from workflow.data.records import Record
from workflow.data.shapes.texts import TextShape
from workflow.data.text_format import TextFormat, Texts
from workflow.data.text_ids import special_remover
from workflow.data.token_cache import TokenizedSplit
from workflow.inference.decoding import Decoding
from workflow.inference.generate import Generation, generate
from workflow.metrics.references import processed
from workflow.metrics.scripts import bleu_tokenizer, inspected
from workflow.metrics.text import TextMetrics
from workflow.tasks.base import EvalContext, Prediction
from workflow.tasks.sameness import Sameness
from workflow.tasks.target_tokens import token_metrics


class References:
    """The references of a split's records; iterates over the first of each record."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        split: TokenizedSplit,
        stops: Sequence[str],
        shape: TextShape,
    ):
        self._shape = shape
        self._without_special = special_remover(tokenizer)
        self._split, self._stops = split, stops
        self._places = np.flatnonzero(split.answered)

    def of(self, record: Record) -> tuple[str, ...]:
        """The references of a record; () if it has no completion."""
        completions = self._shape.references(record)
        return tuple(processed(self._without_special(one), self._stops) for one in completions)

    def __iter__(self) -> Iterator[str]:
        return self._at(self._places)

    def _at(self, places: Indexes) -> Iterator[str]:
        for place in places:
            yield self.of(self._split.record(place))[0]

    @cached_property
    def bleu_tokenizer(self) -> str:
        """BLEU's tokenizer in all evaluations of these records."""
        return bleu_tokenizer(self._at(self._places[inspected(len(self._places))]))


@lru_cache(maxsize=1)
def references_of(
    tokenizer: PreTrainedTokenizerBase,
    split: TokenizedSplit,
    stops: tuple[str, ...],
    shape: TextShape,
) -> References:
    """The references of a split, the same in all evaluations of a run."""
    return References(tokenizer, split, stops, shape)


class Seq2SeqEvaluation:
    """One evaluation of a model that generates completions."""

    timing = "generate_seconds"

    def __init__(
        self,
        context: EvalContext,
        spec: PlannedSpec,
        format: TextFormat,
        shape: TextShape,
    ):
        """Compute the token metrics; completions are generated lazily, as `results` is consumed."""
        self._tokens = token_metrics(context, spec)
        self._shape, self._split, self._seed = shape, context.examples.split, spec.seed
        self._references = references_of(context.tokenizer, self._split, spec.stop, shape)
        self.count = len(self._split)
        self._records, self._compared, self._lost = 0, 0, 0
        self._sameness = None if context.untrained else Sameness()
        self._first = {"mean_length": 0, "at_limit": 0, "empty": 0}
        generated = generate(
            context.model, Texts(context.tokenizer, format), context.examples.sources,
            Decoding.of(spec), context.shard,
        )  # fmt: skip
        self.results: Iterator[tuple[int, Any]] = (
            (index, [vars(one) for one in of_prompt]) for index, of_prompt in generated
        )

    @cached_property
    def _texts(self) -> TextMetrics:
        return TextMetrics(self._seed, self._references.bleu_tokenizer)

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        for index, of_record in zip(indexes, results, strict=True):
            record = self._split.record(index)
            references = self._references.of(record)
            generations = [Generation(**one) for one in of_record]
            texts = [one.text for one in generations]
            if references:
                self._texts.add(texts, references)
                self._compared += 1
            first = generations[0]
            self._lost += not first.finite
            self._records += 1
            if self._sameness:
                self._sameness.add(str(self._shape.prompt(record)), references or None, first.text)
            self._first["mean_length"] += first.tokens
            self._first["at_limit"] += first.at_limit
            self._first["empty"] += not first.text
            item = item_of(record, self._shape, references, generations)
            yield Prediction(record, texts, item)

    def metrics(self) -> dict[str, Any]:
        self._log_caveats()
        means = {
            name: total / self._records if self._records else None
            for name, total in self._first.items()
        }
        return self._tokens.named() | self._texts.result() | means

    def _log_caveats(self) -> None:
        """Log caveats of the metrics; those that hold for every evaluation only once."""
        tokenize = self._references.bleu_tokenizer
        if tokenize != "13a":
            inform_once(
                f"bleu uses sacrebleu's tokenizer {tokenize}, for the script of most completions"
            )
        for note in self._texts.unseen():
            warn_once(note)
        if self._lost and not self._compared:  # else the losses show it
            log.warning(
                "%d of %d records have non-finite logits; their predictions are meaningless",
                self._lost, self._records,
            )  # fmt: skip
        if self._sameness:
            self._sameness.warn()


def item_of(
    record: Record, shape: TextShape, references: Sequence[str], generations: Sequence[Generation]
) -> dict[str, Any]:
    """A record's item in the prediction files, with the references if the completion differs."""
    completion = shape.answer(record)
    item: dict[str, Any] = {
        "prompt": str(shape.prompt(record)),
        "generations": [one.item for one in generations],
        "demonstration": completion,
        "orig_d": record,
    }
    if len(references) > 1:
        item["reference"] = list(references)
    elif references and references[0] != str(completion).strip():
        item["reference"] = references[0]
    return item
