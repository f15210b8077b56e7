"""A model's folder: fetched where it is a hub's, and its tokenizer and configuration checked."""

import pickle
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from workflow.core.errors import BadInput, Problem, shorten
from workflow.models.families import REFUSED, family_of
from workflow.models.languages import settings_for_codes
from workflow.models.tokenizers.two_sided import TwoSidedTokenizer, is_two_sided

SETTINGS = ["*.json", "*.model", "*.txt", "*.spm"]
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Files of weights, the preferred format first: the second is read where there is no first."""
HUB_ERRORS = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
"""What huggingface_hub raises, with the parts that it downloads by."""
LOADING_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError,
    ImportError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
"""What transformers, safetensors and torch raise of files that are not what they should be."""


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


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; raises BadInput where there is none.

    Where its files are missing, transformers makes some a tokenizer that knows no word. (ByT5's
    has no files.)
    """
    made_by = TwoSidedTokenizer if is_two_sided(folder) else AutoTokenizer
    load = partial(made_by.from_pretrained, folder, trust_remote_code=False)
    try:
        with warnings.catch_warnings():  # Marian's never calls what it recommends
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
            tokenizer = load()
        if settings := settings_for_codes(tokenizer):
            tokenizer = load(**settings)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a tokenizer")]) from error
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if tokenizer.vocab_files_names and not any((folder / name).is_file() for name in names):
        found = f"none of {', '.join(sorted(names))}"
        hint = "add the files of the model's tokenizer"
        raise BadInput([Problem(str(folder), found, "a tokenizer beside the model", hint)])
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        problem = Problem(
            str(folder),
            "a tokenizer without an end-of-text or a padding token",
            "both",
            "name them in tokenizer_config.json",
        )
        raise BadInput([problem])
    return tokenizer


def load_config(folder: Path, vocabulary: int) -> PreTrainedConfig:
    """The configuration of an encoder-decoder model; raises BadInput for any other.

    Args:
        vocabulary: number of ids the tokenizer gives.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a readable config.json")]) from error
    where, found = str(folder / "config.json"), f"the model type {config.model_type}"
    try:
        family = family_of(config)
    except ValueError as error:
        expected = "an encoder-decoder language model, as t5, mt5 or bart"
        raise BadInput([Problem(where, found, expected, "choose another model")]) from error
    if config.model_type in REFUSED:
        found += f": {REFUSED[config.model_type]}"
        raise BadInput([Problem(where, found, "a model as t5, bart or mbart", "choose another")])
    if (size := family.vocabulary_size(config)) < vocabulary:
        expected = f"at least the {vocabulary} ids of the tokenizer beside it"
        hint = "use the model's own tokenizer"
        raise BadInput([Problem(where, f"vocab_size {size}", expected, hint)])
    return config


def load_generation_settings(folder: Path) -> GenerationConfig:
    """A model's own generation settings; those of its config.json where it has no others."""
    try:
        if (folder / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return GenerationConfig.from_model_config(config)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "readable generation settings")]) from error


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
