"""A model's folder: fetched where it is a hub's, and its tokenizer and configuration checked."""

import pickle
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from workflow.errors import BadInput, Problem, shorten
from workflow.two_sided import TwoSidedTokenizer, is_two_sided

SETTINGS = ["*.json", "*.model", "*.txt"]
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights, the preferred format first: the second is read where there is no first."""
_VOCABULARY_FILES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
HUB_ERRORS = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
"""What huggingface_hub raises, with the parts that it downloads by."""
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    IndexError,
    RuntimeError,
    ImportError,
    SafetensorError,
    pickle.UnpicklingError,
)


def fetch_settings(model: Path | str) -> Path:
    """The folder of a model with all but its weights: small, so that problems show soon.

    A hub name is downloaded unless it is on disk; what is there is what the hub had then.

    Raises:
        BadInput: where the hub has none such, or cannot be reached.
    """
    return model if isinstance(model, Path) else _fetch(model, SETTINGS)


def fetch_weights(model: Path | str) -> Path:
    """The folder of a model with its weights; raises BadInput as `fetch_settings` does."""
    folder = fetch_settings(model)
    if isinstance(model, str):
        commit = folder.name  # that of the settings: the hub may have another by now
        for pattern in WEIGHTS:
            _fetch(model, [pattern], commit)
            if list(folder.glob(pattern)):
                break
    return folder


def _fetch(model: str, patterns: list[str], commit: str | None = None) -> Path:
    """The folder of the hub's cache that holds a model's files of these patterns.

    Where all are on disk the hub is not asked: it may be out of reach, and slow in being so. That
    they are all is known from the list of the model's files which a download leaves there.
    """
    find = partial(
        huggingface_hub.snapshot_download, model, revision=commit, allow_patterns=patterns
    )
    try:
        with suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
            huggingface_hub.get_cached_repo_tree(model, revision=commit)
            return Path(find(local_files_only=True))
        return Path(find())
    except HUB_ERRORS as error:
        problem = Problem(
            f"model {model}",
            f"no such local folder, and the hub did not give it ({first_line(error)})",
            "a local folder or a hub name that can be reached",
            "correct the name, or put the model's folder into mount/models",
        )
        raise BadInput([problem]) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder; raises BadInput where there is none."""
    if not any((folder / name).is_file() for name in _VOCABULARY_FILES):
        found = f"none of {', '.join(_VOCABULARY_FILES)}"
        mend = "add the files of the model's tokenizer"
        raise BadInput([Problem(str(folder), found, "a tokenizer beside the model", mend)])
    try:
        made_by = TwoSidedTokenizer if is_two_sided(folder) else AutoTokenizer
        tokenizer = made_by.from_pretrained(folder, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a tokenizer")]) from error
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        problem = Problem(
            str(folder),
            "a tokenizer without an end-of-text or a padding token",
            "both",
            "name them in tokenizer_config.json",
        )
        raise BadInput([problem])
    return tokenizer


def load_config(folder: Path, vocabulary: int) -> Any:
    """The configuration of an encoder-decoder model; raises BadInput for any other.

    Args:
        vocabulary: number of ids the tokenizer gives.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a readable config.json")]) from error
    problems = []
    where = str(folder / "config.json")
    if type(config) not in AutoModelForSeq2SeqLM._model_mapping:
        found = f"the model type {config.model_type}"
        expected = "an encoder-decoder language model, as t5, mt5 or bart"
        problems.append(Problem(where, found, expected, "choose another model"))
    elif not hasattr(model_class(config), "prepare_decoder_input_ids_from_labels"):
        found = f"the model type {config.model_type}, which cannot be trained on labels alone"
        problems.append(Problem(where, found, "a model as t5, mt5 or bart", "choose another model"))
    elif getattr(config, "decoder_start_token_id", None) is None:
        found = "no decoder_start_token_id"
        mend = f'add "decoder_start_token_id": {config.pad_token_id or 0}'
        problems.append(Problem(where, found, "the id that decoding starts with", mend))
    size = getattr(config, "vocab_size", vocabulary)
    if size < vocabulary:
        found = f"vocab_size {size}"
        expected = f"at least the {vocabulary} ids of the tokenizer beside it"
        problems.append(Problem(where, found, expected, "use the model's own tokenizer"))
    if problems:
        raise BadInput(problems)
    return config


def model_class(config: Any) -> Any:
    found = AutoModelForSeq2SeqLM._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def shorten_names(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shorten(lines[0] if lines else type(error).__name__, 160).strip("'\"")


def unusable(folder: Path, error: BaseException, expected: str) -> Problem:
    return Problem(
        str(folder), first_line(error), expected, "check the folder, or get the model again"
    )
