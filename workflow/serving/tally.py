"""What a server has done, in the format of Prometheus."""

from collections import Counter
from collections.abc import Iterator, Sequence
from threading import Lock

from workflow.serving.engine import TextEngine
from workflow.serving.texts import Text

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of seconds."""


class Tally:
    """Counts requests and tokens."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds, self._tokens = 0.0, 0
        self._ended: Counter[str] = Counter()

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; of a stream, until it begins."""
        with self._lock:
            self._requests[path, status] += 1
            self._seconds += seconds
            self._within.update(bound for bound in BOUNDS if seconds <= bound)

    def texts(self, texts: Sequence[Text]) -> None:
        """Count the tokens of texts, and how they ended."""
        with self._lock:
            self._tokens += sum(len(text.tokens) for text in texts)
            self._ended.update(text.finish_reason or "cancelled" for text in texts)

    def exposition(self, engine: TextEngine | None) -> str:
        """All numbers, https://prometheus.io/docs/instrumenting/exposition_formats."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(engine))

    def _lines(self, engine: TextEngine | None) -> Iterator[str]:
        yield "# TYPE workflow_requests_total counter"
        for (path, status), count in sorted(self._requests.items()):
            yield f'workflow_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# TYPE workflow_request_seconds histogram"
        total = sum(self._requests.values())
        for bound in BOUNDS:
            yield f'workflow_request_seconds_bucket{{le="{bound:g}"}} {self._within[bound]}'
        yield f'workflow_request_seconds_bucket{{le="+Inf"}} {total}'
        yield f"workflow_request_seconds_sum {self._seconds:.6f}"
        yield f"workflow_request_seconds_count {total}"
        yield "# TYPE workflow_tokens_total counter"
        yield f"workflow_tokens_total {self._tokens}"
        yield "# TYPE workflow_texts_total counter"
        for reason, count in sorted(self._ended.items()):
            yield f'workflow_texts_total{{finish_reason="{reason}"}} {count}'
        if engine is not None:
            yield "# TYPE workflow_texts_running gauge"
            yield f"workflow_texts_running {engine.running}"
            yield "# TYPE workflow_texts_waiting gauge"
            yield f"workflow_texts_waiting {engine.waiting}"
