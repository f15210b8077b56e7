"""What a run resumes from: a checkpoint and its state."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workflow.core.errors import BadInput, Problem, shorten
from workflow.models.state_dict import Named, mapped_tensors
from workflow.runs.checkpoint import (
    RESUME_FOLDER,
    STATE_FILE,
    can_resume,
    checkpoint_folder,
    find_checkpoints,
)
from workflow.runs.mount import Mount
from workflow.runs.train_state import Progress

FORMAT = 1
"""Of state.json."""


@dataclass(frozen=True)
class ComputedWith:
    """How a run was computed: what changes results by rounding alone.

    Attributes:
        stage: of ZeRO; 0 in plain torch.
        positions: of a micro-batch.
    """

    processes: int
    stage: int
    offload: str
    positions: int

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' * (self.processes > 1)}"
        offload = "" if self.offload == "none" else f", offload {self.offload}"
        under = f"ZeRO {self.stage}{offload}" if self.stage else "plain torch"
        return f"{processes}, {under}, micro-batches of {self.positions} positions"


@dataclass(frozen=True)
class CheckpointState:
    """The state of a checkpoint other than weights and optimizer state.

    Attributes:
        spec: the job, as training_args.json holds it.
        data: the key of each split's content.
    """

    progress: Progress
    spec: dict[str, Any]
    data: dict[str, str]
    computed: ComputedWith

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "progress": self.progress.as_json()}


def read_state(checkpoint: Path) -> CheckpointState:
    """The state of a checkpoint; raises BadInput if this version cannot read it."""
    path = checkpoint / RESUME_FOLDER / STATE_FILE
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if read["format"] != FORMAT:
            raise ValueError(f"format {read['format']}")
        progress = Progress.of_json(read["progress"])
        return CheckpointState(
            progress, dict(read["spec"]), dict(read["data"]), ComputedWith(**read["computed"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"unreadable: {shorten(str(error), 100)}"
        hint = "restore it, or start another run from its weights with --model_init_name"
        problem = Problem(str(path), found, f"a checkpoint's state in format {FORMAT}", hint)
        raise BadInput([problem]) from error


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that a run may resume from."""

    folder: Path

    @cached_property
    def state(self) -> CheckpointState:
        """Its state, read once; raises BadInput if this version cannot read it."""
        return read_state(self.folder)

    @property
    def has_optimizer_state(self) -> bool:
        """Whether a run can resume from it: only a run's newest checkpoint has what that needs."""
        return can_resume(self.folder)

    def optimizer_state(self) -> Iterator[Named]:
        """The optimizer state, tensor by tensor, e.g. NAME.exp_avg."""
        for path in sorted((self.folder / RESUME_FOLDER).glob("optimizer*.safetensors")):
            yield from mapped_tensors(path)


def find_resume_point(
    run: Path, own: bool, requested: str | None, mount: Mount
) -> tuple[ResumePoint | None, list[Problem]]:
    """The newest checkpoint of a run, or the requested one if the run has none yet.

    Args:
        run: its folder.
        own: whether its own checkpoints count; they do not if it starts over.
        requested: --resume_from_checkpoint; `none` for no checkpoint.
    """
    steps = find_checkpoints(run) if own else []
    if requested == "none":
        return None, []
    if steps or requested is None:
        return (ResumePoint(checkpoint_folder(run, steps[-1])) if steps else None), []
    where = f"--resume_from_checkpoint {requested}"
    named = [run / requested, mount.models / requested, Path(requested).expanduser()]
    folder = next((path for path in named if path.is_dir()), None)
    if folder is None:
        tried = ", ".join(str(path) for path in named)
        hint = "name a run or its newest checkpoint; a run resumes from its own without this flag"
        return None, [Problem(where, "does not exist", f"one of {tried}", hint)]
    if of_run := find_checkpoints(folder):
        folder = checkpoint_folder(folder, of_run[-1])
    if run.resolve() in folder.resolve().parents:
        found = "a checkpoint of the run that --overwrite_output_dir removes"
        hint = "remove one of the two flags"
        return None, [Problem(where, found, "a checkpoint of another run", hint)]
    if not can_resume(folder):
        found = "has no optimizer state"
        hint = "start a run from its weights with --model_init_name"
        return None, [Problem(where, found, "the newest checkpoint of a run", hint)]
    return ResumePoint(folder), []
