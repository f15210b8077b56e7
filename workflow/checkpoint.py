"""Checkpoints of a run: written whole, found, and rotated."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from workflow.console import log
from workflow.errors import RunFailed
from workflow.files import discard_folder, whole_folder
from workflow.models import Model, save_model
from workflow.mount import CHECKPOINT_NAME


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / f"checkpoint-{step}"


def find_checkpoints(run: Path) -> list[int]:
    """The steps of the whole checkpoints of a run, oldest first."""
    names = [CHECKPOINT_NAME.fullmatch(path.name) for path in run.glob("checkpoint-*")]
    return sorted(int(match.group(1)) for match in names if match)


def write_checkpoint(run: Path, step: int, model: Model, tokenizer: Any) -> None:
    """Write checkpoint-STEP, a plain Hugging Face folder, whole or not at all.

    Raises:
        RunFailed: where it cannot be written; earlier checkpoints stay as they are.
    """
    folder = checkpoint_folder(run, step)
    try:
        with whole_folder(folder) as partial:
            save_model(model, tokenizer, partial)
    except (OSError, SafetensorError) as error:
        raise RunFailed(
            f"step {step}: {folder} could not be written ({error}); earlier checkpoints are whole; "
            "free space, or mend the folder's permissions, and start again"
        ) from error


def rotate_checkpoints(run: Path, keep_newest: int, best: int | None) -> None:
    """Remove all checkpoints but the newest `keep_newest` and the best."""
    for step in find_checkpoints(run)[:-keep_newest]:
        if step == best:
            continue
        try:
            discard_folder(checkpoint_folder(run, step))
        except OSError as error:
            log.warning("an old checkpoint could not be removed: %s", error)
