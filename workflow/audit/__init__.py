"""What the data holds that the user should know before training: lengths, losses, repetitions.

A text is damaged where the tokenizer does not give it back: T5's vocabulary has no newline, no
braces and few letters that are not Latin, and its normalizer writes some characters another way.
"""

from workflow.audit.gather import audit_splits, missing_characters, reserved_characters
from workflow.audit.parts import Report
from workflow.audit.tell import figures, render, warnings_of

__all__ = [
    "Report",
    "audit_splits",
    "figures",
    "missing_characters",
    "render",
    "reserved_characters",
    "warnings_of",
]
