"""Tasks: the only code that knows what records mean, and how to train and evaluate on them.

May import inference, memory, runs and all rooms below them.
"""

from collections.abc import Mapping
from typing import Any

from workflow.config.request import JobRequest
from workflow.data.shapes import shape_of
from workflow.tasks.base import Task
from workflow.tasks.classification import Classification
from workflow.tasks.label_scoring import LabelScoring
from workflow.tasks.seq2seq import Seq2Seq


def task_for(request: JobRequest, record: Mapping[str, Any]) -> Task:
    """The task of a job on records that have the keys of this one."""
    if request.task == "seq2seq":
        return Seq2Seq.of(request, dict(record))
    shape = shape_of(record) or ("label" if request.classes else "target")
    return LabelScoring.of(request) if shape == "target" else Classification.of(request, shape)
