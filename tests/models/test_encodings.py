"""Token ids are those that models were trained with, whatever transformers makes of their files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import BERT_TINY, GPT_TINY, T5_TINY
from tiny_models import change_settings
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from workflow.models.hub import load_tokenizer
from workflow.models.loading import load_model, save_model

TEXT = "  Ünï 🙂 <{}>\\~^`\n\ttwo yes no 1234567 don't "
IDS = {
    T5_TINY: [
        5, 2, 331, 2, 5, 2, 5, 2, 894, 2, 23, 159, 77, 73, 40, 885, 883, 870, 871, 881, 879, 41,
        331, 867, 61, 1,
    ],
    GPT_TINY: [
        220, 220, 127, 250, 77, 127, 107, 220, 172, 253, 247, 224, 220, 27, 90, 92, 29, 59, 93,
        61, 63, 198, 197, 550, 78, 372, 333, 353, 17, 18, 19, 20, 21, 22, 282, 266, 6, 83, 220,
    ],
    BERT_TINY: [
        2, 57, 86, 81, 1, 22, 33, 35, 24, 28, 36, 30, 32, 384, 154, 137, 64, 101, 102, 103, 104,
        105, 106, 166, 86, 11, 56, 3,
    ],
}  # fmt: skip
DIGITS = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]
"""SmolLM2's way of splitting texts."""


@pytest.mark.parametrize("folder", IDS, ids=lambda folder: folder.name)
def test_ids_of_each_kind_of_tokenizer(folder: Path) -> None:
    assert load_tokenizer(folder)(TEXT)["input_ids"] == IDS[folder]
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids == IDS[folder]


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "GPT2TokenizerFast", "GPTNeoXTokenizer"])
def test_the_steps_of_tokenizer_json_are_kept(tmp_path: Path, named: str) -> None:
    """transformers 5 replaces them by those of the class."""
    folder = tmp_path / "model"
    shutil.copytree(GPT_TINY, folder)
    change_settings(folder / "tokenizer_config.json", {"tokenizer_class": named})
    steps = {"type": "Sequence", "pretokenizers": DIGITS}
    change_settings(folder / "tokenizer.json", {"pre_tokenizer": steps})
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    assert ids != AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    tokenizer: Any = load_tokenizer(folder)
    save_model(load_model(folder), tokenizer, tmp_path / "saved")
    for one in (tokenizer, *(load(tmp_path / "saved") for load in (load_tokenizer, by_class))):
        assert one(TEXT) == {"input_ids": ids, "attention_mask": [1] * len(ids)}
        assert one.eos_token == "<|endoftext|>"
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]  # for transformers 4


def by_class(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)
