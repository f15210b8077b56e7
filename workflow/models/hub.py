"""Download models from the Hugging Face Hub; load and check tokenizers and configurations."""

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
    PreTrainedTokenizerFast,
)

from workflow.core.errors import BadInput, Problem, shorten
from workflow.models.families import family_of, refusal
from workflow.models.languages import settings_for_codes
from workflow.models.tokenizers.rebuilt import is_rebuilt_differently
from workflow.models.tokenizers.two_sided import TwoSidedTokenizer, is_two_sided

SETTINGS = ["*.json", "*.model", "*.txt", "*.spm"]
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Patterns of weight files; the second is used if the first matches none."""
HUB_ERRORS = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
"""Errors of huggingface_hub and the libraries it downloads with."""
LOADING_ERRORS = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError,
    ImportError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
"""Errors of transformers, safetensors and torch for invalid files."""


def fetch_settings(model: Path | str) -> Path:
    """The folder of a model without its weights: a small download, so that problems show early.

    A hub name is downloaded unless it is in the cache, which is not updated.

    Raises:
        BadInput: the hub has no such model or cannot be reached.
    """
    return model if isinstance(model, Path) else _fetch(model, SETTINGS)


def fetch_weights(model: Path | str) -> Path:
    """The folder of a model with its weights; raises BadInput as `fetch_settings` does."""
    folder = fetch_settings(model)
    if isinstance(model, str):
        commit = folder.name  # of the settings: the hub may have a newer commit by now
        for pattern in WEIGHTS:
            _fetch(model, [pattern], commit)
            if list(folder.glob(pattern)):
                break
    return folder


def _fetch(model: str, patterns: list[str], commit: str | None = None) -> Path:
    """The folder in the hub cache with a model's files that match `patterns`.

    If all files are cached, the hub is not queried, since it may be slow or unreachable. The list
    of files that a download leaves in the cache shows whether they are complete.
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
            f"no local folder, and the download failed: {first_line(error)}",
            "a local folder or a model of the hub",
            "correct the name, or copy the model's folder to mount/models",
        )
        raise BadInput([problem]) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; raises BadInput if there is none.

    Its files are checked, since without them transformers creates some tokenizers with an empty
    vocabulary. (ByT5's has no files.)
    """
    made_by = TwoSidedTokenizer if is_two_sided(folder) else AutoTokenizer
    load = partial(made_by.from_pretrained, folder, trust_remote_code=False)
    try:
        with warnings.catch_warnings():  # Marian's does not use the package it recommends
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
            tokenizer = load()
        if settings := settings_for_codes(tokenizer):
            tokenizer = load(**settings)
        if is_rebuilt_differently(tokenizer, folder):
            names = tokenizer.model_input_names
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, model_input_names=names)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a tokenizer")]) from error
    names = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if tokenizer.vocab_files_names and not any((folder / name).is_file() for name in names):
        found = f"no {' or '.join(sorted(names))}"
        hint = "copy the tokenizer's files to the folder"
        raise BadInput([Problem(str(folder), found, "a tokenizer", hint)])
    return tokenizer


def load_config(folder: Path, vocabulary: int) -> PreTrainedConfig:
    """The configuration of a language model; raises BadInput for any other model.

    Args:
        vocabulary: number of ids of the tokenizer.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "a readable config.json")]) from error
    where, found = str(folder / "config.json"), f"the model type {config.model_type}"
    expected = "a language model, e.g. t5, llama or bert"
    try:
        family = family_of(config)
    except ValueError as error:
        raise BadInput([Problem(where, found, expected, "choose another model")]) from error
    if reason := refusal(config.model_type):
        found += f": {reason}"
        raise BadInput([Problem(where, found, expected, "choose another model")])
    if (size := family.vocabulary_size(config)) < vocabulary:
        expected = f"at least {vocabulary}, the number of ids of the tokenizer"
        hint = "use the model's own tokenizer"
        raise BadInput([Problem(where, f"vocab_size {size}", expected, hint)])
    return config


def load_generation_settings(folder: Path) -> GenerationConfig:
    """A model's own generation settings, from generation_config.json or else config.json.

    Some folders name the first token in config.json only, which transformers 5 then ignores.
    """
    try:
        of_config = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True
        )
        if not (folder / "generation_config.json").is_file():
            return of_config
        own = GenerationConfig.from_pretrained(folder)
        if own.forced_bos_token_id is None:
            own.forced_bos_token_id = of_config.forced_bos_token_id
        return own
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
        str(folder), first_line(error), expected, "check the folder or download the model again"
    )
