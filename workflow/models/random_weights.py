"""A model's folder with new weights, for training from the start."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from workflow.core.files import whole_folder
from workflow.models.hub import fetch_settings
from workflow.models.loading import build_model, save_model


def random_folder(
    model: Path | str, tokenizer: PreTrainedTokenizerBase, seed: int, cache: Path
) -> Path:
    """A folder in the cache with a model's settings, and weights drawn by transformers.

    They are those of `from_config` after `torch.manual_seed(seed)`, whatever the device and the
    processes; an own head of T5, which transformers 5 ties, has those of torch's linear layers.

    Args:
        model: a folder, or a name on the hub; its own weights are not read.
    """
    settings = fetch_settings(model)
    content = (settings / "config.json").read_text(encoding="utf-8")
    key = json.dumps([str(settings), content, seed])
    folder = cache / f"random-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        drawn = build_model(settings, draws=True)
    with whole_folder(folder) as partial:
        save_model(drawn, tokenizer, partial)
        for name in ("config.json", "generation_config.json", "task.json"):
            if (settings / name).exists():
                shutil.copyfile(settings / name, partial / name)
    return folder
