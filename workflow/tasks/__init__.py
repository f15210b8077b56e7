"""Tasks: the only code that knows what records mean, and how to train and evaluate on them.

May import inference, memory, runs and all rooms below them.
"""

from collections.abc import Callable

from workflow.config.request import JobRequest
from workflow.tasks.base import Task
from workflow.tasks.label_scoring import LabelScoring
from workflow.tasks.seq2seq import Seq2Seq

TASKS: dict[str, Callable[[JobRequest], Task]] = {
    "seq2seq": lambda spec: Seq2Seq(),
    "clf": LabelScoring.of,
}
