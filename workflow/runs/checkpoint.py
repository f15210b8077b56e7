"""Checkpoints of a run: written atomically by all processes, found, and rotated.

A checkpoint is a plain Hugging Face folder. Its subfolder `resume`, which only the newest
checkpoint keeps, holds what resuming needs: the optimizer state by parameter, and state.json.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.core.checksums import has_checksums, write_checksums
from workflow.core.console import log
from workflow.core.errors import RunFailed
from workflow.core.files import (
    begin_folder,
    discard_folder,
    finish_folder,
    lock,
    remove_partials,
)
from workflow.distributed.world import World, shared
from workflow.models.safetensors_writer import (
    SHARD_BYTES,
    Files,
    Tensors,
    plan_files,
    write_index,
    write_tensors,
)
from workflow.models.state_dict import ADAPTER_FILE, is_adapter
from workflow.models.task_file import TASK_FILE
from workflow.runs.mount import CHECKPOINT_NAME

RESUME_FOLDER = "resume"
STATE_FILE = "state.json"
SETTINGS_BYTES = 20_000_000
"""A generous estimate of a checkpoint's tokenizer and settings."""


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step}"


def find_checkpoints(run: Path) -> list[int]:
    """The steps of a run's complete checkpoints, oldest first."""
    folders = [path.name for path in run.glob("checkpoint-*") if path.is_dir()]
    names = [CHECKPOINT_NAME.fullmatch(name) for name in folders]
    return sorted(int(match.group(1)) for match in names if match)


def can_resume(checkpoint: Path) -> bool:
    """Whether a checkpoint still has what resuming needs, including its checksums."""
    folder = checkpoint / RESUME_FOLDER
    return (folder / STATE_FILE).is_file() and has_checksums(folder)


def what_resumes(run: Path) -> str:
    """What rerunning the same command does."""
    steps = find_checkpoints(run)
    return f"resumes from checkpoint-{steps[-1]}" if steps else "starts over"


@dataclass(frozen=True)
class CheckpointContents:
    """What a checkpoint holds.

    Attributes:
        stem: of the weight files: "model", or that of adapters.
        tensors: what the weight files hold.
        optimizer_state: by parameter, e.g. NAME.exp_avg.
        write_settings: writes what the weights need besides, to a folder.
        state: what resuming needs in addition to tensors, as JSON.
        task: how the model is to be used, as JSON.
    """

    stem: str
    tensors: Tensors
    optimizer_state: Tensors
    write_settings: Callable[[Path], None]
    state: dict[str, Any]
    task: dict[str, Any]


def write_checkpoint(run: Path, step: int, contents: CheckpointContents, world: World) -> int:
    """Write checkpoint-STEP atomically, and return the bytes of its tensors.

    All processes must call this: each takes part in gathering every tensor, and writes some files.

    Raises:
        RunFailed: on all processes, if any of them cannot write; earlier checkpoints stay.
    """
    folder = checkpoint_folder(run, step)
    tensors, optimizer_state = contents.tensors, contents.optimizer_state
    size = sum(tensor.bytes for tensor in (*tensors.values(), *optimizer_state.values()))
    partial = None
    try:
        partial = world.on_rank_zero(lambda: _begin(folder, size))
        kept = partial / RESUME_FOLDER
        # Other tools expect small weights in one file; all other files keep every process busy.
        is_small = sum(tensor.bytes for tensor in tensors.values()) <= SHARD_BYTES
        files = plan_files(contents.stem, tensors, 1 if is_small else world.size)
        weights = _write_together(partial, files, tensors, world)
        state_files = plan_files("optimizer", optimizer_state, world.size)
        of_state = _write_together(kept, state_files, optimizer_state, world)

        def finish() -> None:
            write_index(partial, contents.stem, files, tensors)
            contents.write_settings(partial)
            text = json.dumps(contents.task, indent=2, ensure_ascii=False) + "\n"
            (partial / TASK_FILE).write_text(text, encoding="utf-8")
            write_checksums(partial, weights)
            state = json.dumps(contents.state, indent=2) + "\n"
            (kept / STATE_FILE).write_text(state, encoding="utf-8")
            write_checksums(kept, of_state)
            finish_folder(partial, folder)

        world.on_rank_zero(finish)
    except OSError as error:
        message = (
            f"step {step}: {folder} could not be written: {error}. "
            f"Hint: fix the cause, then rerun the same command, which {what_resumes(run)}"
        )
        raise shared(RunFailed(message)) from error
    finally:
        if partial is not None and world.is_rank_zero:
            shutil.rmtree(partial, ignore_errors=True)  # renamed if all is well
    return size


def _begin(folder: Path, size: int) -> Path:
    """The temporary folder in which a checkpoint is written.

    Raises:
        OSError: also if the disk has too little space; a quota shows only in writing.
    """
    free = shutil.disk_usage(folder.parent).free
    if free < size + SETTINGS_BYTES:
        needed = (size + SETTINGS_BYTES) / 1e6
        raise OSError(f"{needed:,.0f} MB needed, {free / 1e6:,.0f} MB free")
    if folder.exists():
        raise FileExistsError("already exists")
    partial = begin_folder(folder)
    (partial / RESUME_FOLDER).mkdir()
    return partial


def _write_together(folder: Path, files: Files, tensors: Tensors, world: World) -> dict[str, str]:
    """Write tensors, each process its own files; returns the SHA-256 of every file."""
    written = world.together(lambda: write_tensors(folder, files, tensors, world.rank, world.size))
    return {name: digest for part in world.gather(written) for name, digest in part.items()}


def rotate_checkpoints(
    run: Path, keep_newest: int, best: int | None, ephemeral: Collection[int] = ()
) -> None:
    """Remove all checkpoints except the newest `keep_newest` and the best.

    Only the newest keeps its `resume` folder. What another process reads stays for now.

    Args:
        ephemeral: steps that are kept only until there is a newer checkpoint.
    """
    steps = find_checkpoints(run)
    kept = {best, *[step for step in steps if step not in ephemeral][-keep_newest:]}
    for step in steps[:-1]:
        folder = checkpoint_folder(run, step)
        old = step not in kept
        resume = folder / RESUME_FOLDER
        if not old and not resume.exists():
            continue
        try:
            with _unread(folder) as unread:
                if unread:
                    discard_folder(folder if old else resume)
                else:
                    log.info("keeping %s for now: another process reads it", folder.name)
        except OSError as error:
            log.warning("could not remove an old checkpoint: %s", error)


def remove_leftovers(run: Path) -> None:
    """Remove what a killed process left half-written or half-removed in this job's run."""
    remove_partials(run, older_than=0)
    for step in find_checkpoints(run):
        remove_partials(checkpoint_folder(run, step), older_than=0)


@contextmanager
def hold_for_reading(*folders: Path | str | None) -> Iterator[None]:
    """Within the block, no run removes these model folders as old checkpoints."""
    with ExitStack() as stack:
        for folder in (folder for folder in folders if folder is not None):
            with suppress(OSError):  # a model of the hub
                lock(stack.enter_context(open(_settings_of(Path(folder)), "rb")), shared=True)
        yield


def _settings_of(folder: Path) -> Path:
    """The file of a model or an adapter that readers lock."""
    return folder / (ADAPTER_FILE if is_adapter(folder) else "config.json")


@contextmanager
def _unread(folder: Path) -> Iterator[bool]:
    """Whether no process reads a checkpoint; if so, none can start to within the block."""
    with ExitStack() as stack:
        unread = True
        with suppress(OSError):  # nothing to read there
            unread = lock(stack.enter_context(open(_settings_of(folder), "r+b")), wait=False)
        yield unread
