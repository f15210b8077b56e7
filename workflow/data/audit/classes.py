"""Audit of records with classes: how often each occurs, and what pairs of answers give away."""

from collections import Counter
from collections.abc import Mapping

from workflow.data.audit.parts import AuditReport, Finding, digest


class ClassAudit:
    """The classes of a split, record by record; of a soft label, the most probable one.

    For pairs also which side the longer answer is on, and records that repeat an earlier one with
    its answers swapped.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._soft = 0
        self._longer: Counter[tuple[str, str]] = Counter()
        self._digests: set[int] = set()
        self._swapped = Finding()

    def add(self, place: str, texts: tuple[str, ...], label: Mapping[str, float] | None) -> None:
        """Add a record with its texts: an input, or a prompt and two answers."""
        if label is not None:
            name = max(label, key=lambda one: (label[one], one))
            self._counts[name] += 1
            self._soft += len(label) > 1
        if len(texts) != 3:
            return
        prompt, a, b = texts
        if label is not None and len(a) != len(b):
            self._longer[name, "a" if len(a) > len(b) else "b"] += 1
        if digest([prompt, b, a]) in self._digests and a != b:
            self._swapped.add(place)
        self._digests.add(digest([prompt, a, b]))

    def report(self) -> AuditReport | None:
        """Counts by class, in the order of names; None without labels."""
        if not self._counts:
            return None
        longer = self._longer.items()
        preferred = sum(count for (name, side), count in longer if name == side)
        decided = sum(count for (name, _), count in longer if name != "tie")
        return {
            "counts": {name: self._counts[name] for name in sorted(self._counts)},
            "soft": self._soft,
            "swapped": self._swapped.report(),
            "longer_preferred": preferred / decided if decided else None,
            "decided": decided,
        }
