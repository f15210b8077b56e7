"""Evaluation on plain text: the loss of its tokens, and continuations of its openings."""

from collections.abc import Iterator
from typing import Any

from workflow.config.job import PlannedSpec
from workflow.data.documents import Openings
from workflow.data.text_format import TextFormat, Texts
from workflow.data.text_ids import decode_texts
from workflow.inference.decoding import Decoding
from workflow.inference.generate import Generation, generate
from workflow.metrics.names import perplexity
from workflow.tasks.base import EvalContext, Prediction
from workflow.tasks.target_tokens import token_metrics

AT_ONCE = 1024
"""Targets decoded together."""


class TextEvaluation:
    """One evaluation on plain text."""

    timing = "generate_seconds"

    def __init__(
        self,
        context: EvalContext,
        spec: PlannedSpec,
        format: TextFormat,
        openings: Openings,
        of_spans: bool,
    ):
        """Compute the token metrics; texts are continued lazily, as `results` is consumed.

        Args:
            of_spans: whether hidden spans are learned, not the whole text.
        """
        self._context, self._openings, self._of_spans = context, openings, of_spans
        self._tokens = token_metrics(context, spec)
        self._longest = spec.max_new_tokens
        self.count, self._bytes = len(openings), 0
        texts = Texts(context.tokenizer, format)
        generated = generate(context.model, texts, openings, Decoding.of(spec), context.shard)
        self.results: Iterator[tuple[int, Any]] = (
            (index, [vars(one) for one in of_text]) for index, of_text in generated
        )

    def judge(self, indexes: range, results: Iterator[Any]) -> Iterator[Prediction]:
        for index, of_record in zip(indexes, results, strict=True):
            record = self._context.examples.split.record(index)
            self._bytes += len(record["text"].encode())
            divided = self._openings.divided(index, self._longest)
            shown, following = decode_texts(self._context.tokenizer, divided, True)
            generations = [Generation(**one) for one in of_record]
            item = {
                "prompt": shown,
                "generations": [one.item for one in generations],
                "demonstration": following,
                "orig_d": record,
            }
            yield Prediction(record, [one.text for one in generations], item)

    def metrics(self) -> dict[str, Any]:
        count = self._hidden_bytes() if self._of_spans else self._bytes
        per_byte, loss = None, self._tokens.loss
        if loss is not None and count:
            per_byte = loss * self._tokens.tokens / count
        return self._tokens.named() | {"byte_perplexity": perplexity(per_byte)}

    def _hidden_bytes(self) -> int:
        """The bytes of the text in hidden spans."""
        targets, total = self._context.examples.targets, 0
        for start in range(0, len(targets), AT_ONCE):
            rows = [targets[i] for i in range(start, min(start + AT_ONCE, len(targets)))]
            texts = decode_texts(self._context.tokenizer, rows, skip_special_tokens=True)
            total += sum(len(text.encode()) for text in texts)
        return total
