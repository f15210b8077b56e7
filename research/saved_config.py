"""transformers 5.23.0 saves a T5 model with an untied head as one with tied weights."""

import json
from pathlib import Path
from typing import Any

from research.trials import Row, one_step, run_ours, try_ours, try_peer


def prove(mount: Path) -> Row:
    """What config.json of a saved model says about its own head."""
    peer = try_peer(mount, save)["tied"]

    def ours() -> tuple[str, bool]:
        tied = _tied(run_ours(mount, *one_step(1, 1)) / "checkpoint-1")
        return json.dumps(tied), tied is False

    return Row(
        "`tie_word_embeddings` in config.json, after saving a model with an own head",
        "false", json.dumps(peer), peer is False, *try_ours(ours),
    )  # fmt: skip


def save(folder: Path, accumulation: int) -> dict[str, Any]:
    """What save_pretrained writes into config.json about the head."""
    from transformers import AutoModelForSeq2SeqLM

    AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(folder / "saved")
    return {"tied": _tied(folder / "saved")}


def _tied(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("tie_word_embeddings")
