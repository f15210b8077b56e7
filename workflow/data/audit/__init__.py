"""Audit of the data before training: lengths, lost characters, duplicates, contradictions, overlap.

A text is damaged if it does not survive tokenizing and decoding: T5's vocabulary has no newline,
no braces and few non-Latin letters, and its normalizer replaces some characters.
"""

from workflow.data.audit.collect import audit_splits, missing_characters, reserved_characters
from workflow.data.audit.parts import AuditReport
from workflow.data.audit.render import figures, render, warnings_of
from workflow.data.audit.round_trip import Damage

__all__ = [
    "AuditReport",
    "Damage",
    "audit_splits",
    "figures",
    "missing_characters",
    "render",
    "reserved_characters",
    "warnings_of",
]
