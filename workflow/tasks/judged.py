"""What seq2seq's answers are compared with, what they show, and what is written of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from workflow.core.console import inform_once, log, warn_once
from workflow.data.schema import Record
from workflow.data.step_planner import Indexes
from workflow.data.text_ids import special_remover
from workflow.data.token_cache import TokenizedSplit
from workflow.inference.generate import Generation
from workflow.metrics.references import processed
from workflow.metrics.scripts import bleu_tokenizer, looked_at
from workflow.metrics.text import TextMetrics


class References:
    """What the answers to a split's records are compared with; all of them, one after the other."""

    def __init__(self, tokenizer: Any, split: TokenizedSplit, stops: Sequence[str]):
        self._without_special = special_remover(tokenizer)
        self._split, self._stops = split, stops
        self._places = np.flatnonzero(split.answered)

    def of(self, record: Record) -> str | None:
        """That of a record; None where it has no completion."""
        if "completion" not in record:
            return None
        return processed(self._without_special(record["completion"]), self._stops)

    def __iter__(self) -> Iterator[str]:
        return self._at(self._places)

    def _at(self, places: Indexes) -> Iterator[str]:
        for place in places:
            reference = self.of(self._split.record(place))
            assert reference is not None
            yield reference

    @property
    def bleu_tokenizer(self) -> str:
        """The tokenizer that BLEU has in all evaluations of these records."""
        return bleu_tokenizer(self._at(self._places[looked_at(len(self._places))]))


class Judged:
    """What answers show, taken one record at a time."""

    def __init__(self, seed: int, tokenize: str):
        self._texts = TextMetrics(seed, tokenize)
        self._tokenize = tokenize
        self._records, self._compared, self._lost = 0, 0, 0
        self._first = {"mean_length": 0, "at_limit": 0, "empty": 0}

    def add(self, reference: str | None, answers: Sequence[Generation]) -> None:
        """Take a record's answers; the texts count where there is a reference."""
        if reference is not None:
            self._texts.add([answer.text for answer in answers], reference)
            self._compared += 1
        self._lost += not answers[0].finite
        self._records += 1
        self._first["mean_length"] += answers[0].tokens
        self._first["at_limit"] += answers[0].at_limit
        self._first["empty"] += not answers[0].text

    def metrics(self) -> dict[str, Any]:
        means = {
            name: total / self._records if self._records else None
            for name, total in self._first.items()
        }
        return self._texts.result() | means

    def tell(self) -> None:
        """Log what the metrics do not say, what is the same at every evaluation only once."""
        if self._tokenize != "13a":
            inform_once(
                f"bleu: sacrebleu's tokenizer {self._tokenize}, for the script of most completions"
            )
        for doubt in self._texts.unseen():
            warn_once(doubt)
        if self._lost and not self._compared:  # else the losses tell
            log.warning(
                "the logits of %d of %d records are no finite numbers: their answers mean nothing",
                self._lost, self._records,
            )  # fmt: skip


def item_of(record: Record, reference: str | None, answers: Sequence[Generation]) -> dict[str, Any]:
    """What is written of a record, with the reference where it is not the completion as it is."""
    item = {
        "prompt": record["prompt"],
        "generations": [
            {"lm_postprocess": g.text, "full_generated": g.full_text, "scores": g.scores}
            for g in answers
        ],
        "demonstration": record.get("completion"),
        "orig_d": record,
    }
    if reference is not None and reference != record["completion"].strip():
        item["reference"] = reference
    return item
