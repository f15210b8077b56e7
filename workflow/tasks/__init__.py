"""Tasks: the only places that know what a record means, what is learned, and what is answered."""

from collections.abc import Callable

from workflow.config import JobSpec
from workflow.tasks.clf import Classification
from workflow.tasks.seq2seq import Seq2Seq
from workflow.tasks.task import Task

TASKS: dict[str, Callable[[JobSpec], Task]] = {"seq2seq": Seq2Seq.of, "clf": Classification.of}
