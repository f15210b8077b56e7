"""The shapes of records, which their keys tell apart."""

from workflow.data.records import Record
from workflow.data.shapes.base import Shape
from workflow.data.shapes.classes import Labels, Pairs, Preferences
from workflow.data.shapes.targets import Targets
from workflow.data.shapes.texts import Chats, Completions, Documents, Instructions

SHAPES: dict[str, tuple[type[Shape], ...]] = {
    "seq2seq": (Completions, Chats, Instructions, Documents),
    "clf": (Targets, Pairs, Preferences, Labels),
}
"""The shapes that a task reads; the first that fits a record is its own."""


def shape_of(task: str, record: Record) -> type[Shape] | None:
    """The shape of a record for a task; None if its keys do not tell."""
    return next((shape for shape in SHAPES[task] if shape.fits(record)), None)


def keys_of_other_shape(shape: Shape, record: Record) -> list[str]:
    """The keys of a record that has another shape of the same task; [] if it has none."""
    if shape.fits(record):
        return []
    task = next(name for name, shapes in SHAPES.items() if isinstance(shape, shapes))
    other = shape_of(task, record)
    known = (*other.source_keys, other.answer_key, *other.marks) if other else ()
    return [key for key in dict.fromkeys(known) if key in record]
