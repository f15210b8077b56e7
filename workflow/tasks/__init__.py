"""Tasks: the only code that knows what records mean, and how to train and evaluate on them.

May import inference, memory, runs and all rooms below them.
"""

from workflow.config.request import JobRequest
from workflow.data.records import Record
from workflow.data.shapes import shape_of
from workflow.data.shapes.classes import ClassShape, Labels
from workflow.data.shapes.texts import Completions, Documents, TextShape
from workflow.tasks.base import Task
from workflow.tasks.classification import Classification
from workflow.tasks.label_scoring import LabelScoring
from workflow.tasks.language_modeling import LanguageModeling
from workflow.tasks.seq2seq import Seq2Seq


def task_for(request: JobRequest, record: Record) -> Task:
    """The task of a job on records that have the keys of this one."""
    shape = shape_of(request.task, record)
    if request.task == "seq2seq":
        if shape is Documents:
            return LanguageModeling()
        of_texts = shape if shape is not None and issubclass(shape, TextShape) else Completions
        return Seq2Seq.of(request, of_texts())
    if shape is None and request.classes:
        shape = Labels
    if shape is not None and issubclass(shape, ClassShape):
        return Classification.of(request, shape)
    return LabelScoring.of(request)
