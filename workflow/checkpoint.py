"""Checkpoints of a run: written whole, found, and rotated."""

import shutil
from pathlib import Path
from typing import Any

from workflow.console import log
from workflow.engine import Engine
from workflow.errors import RunFailed
from workflow.files import begin_folder, discard_folder, finish_folder
from workflow.models import save_settings, saved_shapes
from workflow.mount import CHECKPOINT_NAME
from workflow.weights import write_weights
from workflow.world import World, shared


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step}"


def find_checkpoints(run: Path) -> list[int]:
    """The steps of the whole checkpoints of a run, oldest first."""
    names = [CHECKPOINT_NAME.fullmatch(path.name) for path in run.glob("checkpoint-*")]
    return sorted(int(match.group(1)) for match in names if match)


def write_checkpoint(run: Path, step: int, engine: Engine, tokenizer: Any, world: World) -> None:
    """Write checkpoint-STEP, a plain Hugging Face folder, whole or not at all.

    The processes share the files: each takes part in gathering every tensor, and writes some.

    Raises:
        RunFailed: on all processes, where one of them cannot write; earlier checkpoints stay.
    """
    folder = checkpoint_folder(run, step)
    partial = None
    try:
        partial = world.by_main(lambda: begin_folder(folder))
        failure: Exception | None = None
        try:
            write_weights(partial, saved_shapes(engine.model), engine.tensors(), world.has_file)
        except OSError as error:
            failure = error
        failure = world.agree(failure)
        if failure is not None:
            raise failure
        world.by_main(lambda: _finish(partial, folder, engine, tokenizer))
    except OSError as error:
        told = (
            f"step {step}: {folder} could not be written ({error}); earlier checkpoints are whole; "
            "free space, or mend the folder's permissions, and start again"
        )
        raise shared(RunFailed(told)) from error
    finally:
        if partial is not None and world.is_main:
            shutil.rmtree(partial, ignore_errors=True)  # which has become the folder if all is well


def _finish(partial: Path, folder: Path, engine: Engine, tokenizer: Any) -> None:
    save_settings(engine.model, tokenizer, partial)
    finish_folder(partial, folder)


def rotate_checkpoints(run: Path, keep_newest: int, best: int | None) -> None:
    """Remove all checkpoints but the newest `keep_newest` and the best."""
    for step in find_checkpoints(run)[:-keep_newest]:
        if step == best:
            continue
        try:
            discard_folder(checkpoint_folder(run, step))
        except OSError as error:
            log.warning("an old checkpoint could not be removed: %s", error)
