"""What the data holds that the user should know before training: lengths, losses, repetitions.

A text is damaged where the tokenizer does not give it back: T5's vocabulary has no newline, no
braces and few letters that are not Latin, and its normalizer writes some characters another way.
"""

from workflow.data.audit.collect import audit_splits, missing_characters, reserved_characters
from workflow.data.audit.parts import AuditReport
from workflow.data.audit.render import figures, render, warnings_of

__all__ = [
    "AuditReport",
    "audit_splits",
    "figures",
    "missing_characters",
    "render",
    "reserved_characters",
    "warnings_of",
]
