"""Loading and saving models, such that the model saved is the model trained is the model loaded."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from workflow.cpu import ATTENTION
from workflow.errors import BadInput, Problem, shorten

Model = Any
"""A transformers.PreTrainedModel, whose own types are too loose to check."""

HEAD = "lm_head.weight"
_SETTINGS = ["*.json", "*.model", "*.txt"]
_VOCABULARY_FILES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    pickle.UnpicklingError,
)

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def fetch_settings(model: Path | str) -> Path:
    """The folder of a model with all but its weights: small, so that problems show soon.

    A hub name is downloaded unless it is on disk.

    Raises:
        BadInput: where the hub has none such, or cannot be reached.
    """
    return _fetch(model, _SETTINGS)


def fetch_weights(model: Path | str) -> Path:
    """The folder of a model with its weights; raises BadInput as `fetch_settings` does."""
    folder = _fetch(model, ["*.safetensors"])
    if isinstance(model, str) and not list(folder.glob("*.safetensors")):
        folder = _fetch(model, ["pytorch_model*.bin"])
    return folder


def _fetch(model: Path | str, patterns: list[str]) -> Path:
    if isinstance(model, Path):
        return model
    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        problem = Problem(
            f"model {model}",
            f"no such local folder, and the hub did not give it ({_first_line(error)})",
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
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise BadInput([_unusable(folder, error, "a tokenizer")]) from error
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
    except _LOADING_ERRORS as error:
        raise BadInput([_unusable(folder, error, "a readable config.json")]) from error
    problems = []
    where = str(folder / "config.json")
    if type(config) not in AutoModelForSeq2SeqLM._model_mapping:
        found = f"the model type {config.model_type}"
        expected = "an encoder-decoder language model, as t5, mt5 or bart"
        problems.append(Problem(where, found, expected, "choose another model"))
    elif not hasattr(_model_class(config), "prepare_decoder_input_ids_from_labels"):
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


def _model_class(config: Any) -> Any:
    found = AutoModelForSeq2SeqLM._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def load_model(folder: Path | str, dropout_rate: float | None = None) -> Model:
    """The model of a folder in float32 on the CPU, every tensor equal to the file's.

    Reads safetensors, or PyTorch files with weights only, in one file or in shards.

    Raises:
        BadInput: where files are missing, broken or do not fit the configuration.
    """
    folder = Path(folder)
    changes = {} if dropout_rate is None else _dropout_settings(folder, dropout_rate)
    try:
        weight_files(folder)
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            folder,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **changes,
        )
        problems = _compare_with_files(model, folder, report)
    except _LOADING_ERRORS as error:
        raise BadInput([_unusable(folder, error, "weights that can be loaded")]) from error
    if problems:
        raise BadInput(problems)
    return model


def _dropout_settings(folder: Path, rate: float) -> dict[str, float]:
    """The configuration's own name for dropout, set to `rate`."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("dropout_rate", "dropout"):
        if hasattr(config, name):
            return {name: rate}
    found = f"a {config.model_type} model, which has no such setting"
    raise BadInput([Problem("--dropout_rate", found, "a model with dropout", "leave it out")])


def _compare_with_files(model: Model, folder: Path, report: dict[str, Any]) -> list[Problem]:
    """Give the model its own head where the files have one, and tell what differs from them."""
    loaded = model.state_dict()
    own_head = says_own_head(model, folder)
    in_files = set()
    differing = []
    for name, tensor in file_tensors(folder):
        in_files.add(name)
        if name == HEAD and own_head:
            model.lm_head.weight = torch.nn.Parameter(tensor.float().contiguous())
        elif name in loaded and not torch.equal(loaded[name], tensor.float()):
            differing.append(name)
    missing = sorted(report["missing_keys"])
    if own_head and HEAD not in in_files:
        missing.append(HEAD)
    problems = []
    if missing:
        found = f"no tensor {shorten_names(missing)}"
        problems.append(
            Problem(str(folder), found, "every tensor of the model", "get the whole model again")
        )
    if report["unexpected_keys"]:
        found = f"tensors that the model lacks: {shorten_names(sorted(report['unexpected_keys']))}"
        mend = "correct config.json: a layer may be missing there"
        problems.append(Problem(str(folder), found, "the tensors of the model", mend))
    if differing:
        found = f"other values in the model than in its files for {shorten_names(differing)}"
        problems.append(
            Problem(str(folder), found, "equal values", "report this with the model's name")
        )
    return problems


def says_own_head(model: Model, folder: Path) -> bool:
    """Whether a checkpoint says that its head is a matrix beside its embedding.

    transformers 5 forces `tie_word_embeddings` to true for the T5 family and takes the head for
    tied wherever its values equal the embedding's. What the checkpoint said remains in its
    config.json; where version 5 saved that, in `scale_decoder_outputs` (only tied T5 models scale).
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scales = getattr(model.config, "scale_decoder_outputs", None)
    return hasattr(model, "lm_head") and (
        raw.get("tie_word_embeddings") is False or scales is False
    )


def file_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in the weight files of a folder, one at a time."""
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
        else:
            mapped = zipfile.is_zipfile(path)
            yield from torch.load(path, weights_only=True, mmap=mapped, map_location="cpu").items()


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, in the order of preference of transformers."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text())["weight_map"].values())
            return [folder / shard for shard in sorted(shards)]
    raise FileNotFoundError("neither model.safetensors nor pytorch_model.bin, whole or in shards")


def save_model(model: Model, tokenizer: Any, folder: Path) -> None:
    """Write a plain Hugging Face folder that transformers 4 and 5 read the same way."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sentencepiece = Path(tokenizer.name_or_path) / "spiece.model"
    if sentencepiece.is_file():  # transformers 5 reads it, and does not write it
        shutil.copyfile(sentencepiece, folder / sentencepiece.name)
    _rewrite_json(folder / "config.json", lambda config: _config_for_all(config, model))
    _rewrite_json(folder / "tokenizer_config.json", _tokenizer_config_for_all)
    _share_as_usual(folder)


def _config_for_all(config: dict[str, Any], model: Model) -> dict[str, Any]:
    """Say that an own head is not tied: transformers 5 writes true for all of the T5 family."""
    head = getattr(model, "lm_head", None)
    own_head = head is not None and head.weight is not model.get_input_embeddings().weight
    if own_head and not getattr(model.config, "scale_decoder_outputs", False):
        config["tie_word_embeddings"] = False
    return config


def _tokenizer_config_for_all(config: dict[str, Any]) -> dict[str, Any]:
    """Use the words both versions know: version 4 stops at some of version 5's."""
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):  # of how it was loaded, not of what it is
        config.pop(name, None)
    return config


def _rewrite_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    changed = change(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(changed, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _share_as_usual(folder: Path) -> None:
    """Give the files the mode that files get here; safetensors makes its own private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def packs_rows(model: Model) -> bool:
    """Whether several examples can stand in one row without seeing each other.

    Positions must be relative, and attention must take a mask of (rows, 1, queries, keys).
    """
    config = model.config
    return config.model_type in ("t5", "mt5") and config._attn_implementation in ("sdpa", ATTENTION)


@contextmanager
def head_at(
    model: Model, positions: torch.Tensor, words: Sequence[int] | None = None
) -> Iterator[None]:
    """Let the model's head compute logits only where `positions` (rows, length) is true.

    The logits are then (true positions, vocabulary), or, of `words` alone and in float32, (true
    positions, words): what is not asked for never exists as logits.
    """
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions],))
    try:
        with nullcontext() if words is None else _head_of(model, head, words):
            yield
    finally:
        handle.remove()


@contextmanager
def _head_of(model: Model, head: Any, words: Sequence[int]) -> Iterator[None]:
    """Let a head compute the logits of `words` alone, in float32."""
    rows = torch.tensor(words, device=head.weight.device)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[rows].float()
        return F.linear(hidden.float(), head.weight[rows].float(), bias)

    added = getattr(model, "final_logits_bias", None)  # BART adds it to what its head gives
    head.forward = forward
    if added is not None:
        model.final_logits_bias = added[:, rows]
    try:
        yield
    finally:
        del head.forward
        if added is not None:
            model.final_logits_bias = added


def shorten_names(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shorten(lines[0] if lines else type(error).__name__, 160).strip("'\"")


def _unusable(folder: Path, error: BaseException, expected: str) -> Problem:
    return Problem(
        str(folder), _first_line(error), expected, "check the folder, or get the model again"
    )
