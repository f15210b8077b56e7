"""Tasks: the only places that know what a record means, what is learned, and what is answered."""

from workflow.tasks.seq2seq import Seq2Seq
from workflow.tasks.task import Task

TASKS: dict[str, type[Task]] = {"seq2seq": Seq2Seq}
