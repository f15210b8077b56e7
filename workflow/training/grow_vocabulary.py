"""Audit what the tokenizer loses of the data, and extend it until nothing is lost."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from workflow.config.request import JobRequest
from workflow.core.files import write_json
from workflow.data.audit import (
    AuditReport,
    Damage,
    audit_splits,
    missing_characters,
    reserved_characters,
)
from workflow.data.token_cache import TokenizedSplit
from workflow.models.tokenizers.vocabulary import can_grow, grow_tokenizer
from workflow.tasks.base import Task

AUDIT_FORMAT = 9
ROUNDS = 4
"""Maximum number of extensions: each may reveal more missing characters."""
Splits = dict[str, TokenizedSplit]


def audited(
    data: Splits, task: Task, tokenizer: PreTrainedTokenizerBase, request: JobRequest, cache: Path
) -> AuditReport:
    """The audit of these splits, cached by their tokens and the maximum lengths."""
    limits = task.limits(request)
    cut = *limits.values(), request.truncation_side
    key = json.dumps([AUDIT_FORMAT, [split.key for split in data.values()], cut])
    path = cache / "audits" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        report: AuditReport = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        damage = Damage(tokenizer, task.format.writes)
        report = audit_splits(data, task.shape, damage, limits, request.truncation_side)
        report["can_grow"] = can_grow(tokenizer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report)
    return report


def grow_until_nothing_is_missing(
    tokenizer: PreTrainedTokenizerBase,
    data: Splits,
    tokenize: Callable[[PreTrainedTokenizerBase], Splits],
    audit: Callable[[PreTrainedTokenizerBase, Splits], AuditReport],
) -> tuple[PreTrainedTokenizerBase, Splits, AuditReport]:
    """Add a token for each character that is lost; returns the tokenizer, its data and audit.

    All texts are tokenized again after each extension; the audit reports what is still lost.
    """
    report = audit(tokenizer, data)
    requested: set[str] = set()
    for _ in range(ROUNDS):
        missing = missing_characters(report)
        grown = grow_tokenizer(tokenizer, missing, reserved_characters(report)) if missing else None
        if grown is None or grown is tokenizer:
            break
        tokenizer, requested = grown, requested | missing
        data = tokenize(tokenizer)
        report = audit(tokenizer, data)
    report["added_tokens"] = sorted(requested - missing_characters(report))
    return tokenizer, data, report
