"""Load and save models without changing any value."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from workflow.core.errors import BadInput
from workflow.models.configuration import set_dropout, widen_vocabulary
from workflow.models.families import family_of
from workflow.models.hub import LOADING_ERRORS, load_generation_settings, unusable
from workflow.models.safetensors_writer import Whole, plan_files, write_index, write_tensors
from workflow.models.state_dict import (
    Named,
    file_tensors,
    load_state_dict,
    model_name,
    problems_of_misfits,
    saved_names,
    weight_files,
)
from workflow.models.vocab_extension import VocabExtension

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load_model(
    folder: Path | str,
    dropout_rate: float | None = None,
    extension: VocabExtension | None = None,
    dtype: torch.dtype = torch.float32,
    checkpoint: Path | None = None,
) -> PreTrainedModel:
    """Load the model of a folder, with every tensor equal to the file's.

    Reads safetensors or PyTorch weights, in one file or in shards. The model is on torch's default
    device, or partitioned within deepspeed.zero.Init; then each process holds only its own
    partition and at most one tensor at a time.

    Args:
        extension: additional tokens of the model.
        checkpoint: a folder of the same model, already extended, to load the values from.

    Raises:
        BadInput: files are missing, damaged or do not fit the configuration.
    """
    folder = Path(folder)
    values = checkpoint or folder
    check_weight_files(values)
    try:
        model = build_model(folder, dropout_rate, extension, dtype)
        misfits = load_state_dict(
            model, weights_of(model, values, None if checkpoint else extension)
        )
    except LOADING_ERRORS as error:
        raise BadInput([unusable(values, error, "loadable weights")]) from error
    if problems := problems_of_misfits(misfits, values):
        raise BadInput(problems)
    model.eval()
    return model


def check_weight_files(folder: Path) -> None:
    """Raise BadInput if a folder's weight files are missing or unreadable."""
    try:
        for path in weight_files(folder):
            with open(path, "rb"):
                pass
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "loadable weights")]) from error


def build_model(
    folder: Path,
    dropout_rate: float | None = None,
    extension: VocabExtension | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Create the modules of a folder's model, with uninitialized parameters.

    transformers 5 ties every T5's head to its embedding here, and unties it later if the values
    differ, which does not work for partitioned parameters. An untied head is created here instead.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(config, name):  # each process would drop different layers
            setattr(config, name, 0.0)
    if dropout_rate is not None:
        set_dropout(config, dropout_rate)
    if extension is not None:
        widen_vocabulary(config, extension.new_tokens)
    model_class: Any = family_of(config).model_class(config)
    with no_init_weights():
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
        model.tie_weights()
        if hasattr(model, "lm_head") and has_untied_head(config, folder):
            tied: Any = model.lm_head
            model.lm_head = torch.nn.Linear(
                tied.in_features, tied.out_features, bias=False, dtype=dtype
            )
    model.generation_config = load_generation_settings(folder)
    model.name_or_path = str(folder)
    return model


def weights_of(
    model: PreTrainedModel, folder: Path, extension: VocabExtension | None = None
) -> Iterator[Named]:
    """The tensors of a folder's files, with rows for the additional tokens.

    Tensors that are not extended are memory-mapped.
    """
    if extension is None:
        yield from file_tensors(folder)
        return
    by_name = model.state_dict(keep_vars=True)
    output = model.get_output_embeddings()
    words = {id(weight) for weight in (*_embedding_weights(model), output.weight)}
    for name, tensor in file_tensors(folder):
        known = model_name(model, by_name, name)
        if known is not None and id(by_name[known]) in words:
            yield name, extension.rows(tensor)
        elif known is not None and (
            known.endswith("final_logits_bias") or by_name[known] is getattr(output, "bias", None)
        ):
            longer = family_of(model.config).vocabulary_size(model.config) - tensor.shape[-1]
            yield name, torch.nn.functional.pad(tensor, (0, longer))
        else:
            yield name, tensor


def _embedding_weights(model: PreTrainedModel) -> list[Any]:
    """The input embeddings of the model, its encoder and its decoder, which may be shared."""
    readers = model, model.get_encoder(), model.get_decoder()
    return [reader.get_input_embeddings().weight for reader in readers]


def has_untied_head(config: Any, folder: Path) -> bool:
    """Whether the head of a checkpoint is untied from its embedding.

    transformers 5 forces `tie_word_embeddings` to true for the T5 family. The original value is in
    config.json or, if version 5 saved that, in `scale_decoder_outputs` (only tied T5 models scale).
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scales = getattr(config, "scale_decoder_outputs", None)
    return raw.get("tie_word_embeddings") is False or scales is False


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a standard Hugging Face folder of a model that is not partitioned."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = held_tensors(saved_names(model))
    files = plan_files("model", tensors)
    write_tensors(folder, files, tensors)
    write_index(folder, "model", files, tensors)
    save_settings(model, tokenizer, folder)


def held_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, Whole]:
    """The tensors to write, if none is partitioned."""
    return {
        name: Whole(tensor.shape, partial(torch.Tensor.detach, tensor))
        for name, tensor in tensors.items()
    }


def save_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write all files of a standard Hugging Face folder except the weights.

    transformers 4 and 5 load the folder in the same way.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    if _is_head_untied(model):  # transformers 5 sets it to true for the T5 family
        config.tie_word_embeddings = False
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # the tokenizers library raises no subclass for failed writes
        raise OSError(str(error)) from error
    sentencepiece = Path(tokenizer.name_or_path) / "spiece.model"
    if sentencepiece.is_file():  # transformers 5 reads but does not write it
        shutil.copyfile(sentencepiece, folder / sentencepiece.name)
    _reword_for_version_4(folder / "tokenizer_config.json")


def _is_head_untied(model: PreTrainedModel) -> bool:
    """Whether the head is untied from the embeddings."""
    head = model.get_output_embeddings().weight
    own = all(head is not weight for weight in _embedding_weights(model))
    return own and not getattr(model.config, "scale_decoder_outputs", False)


def _reword_for_version_4(path: Path) -> None:
    """Replace names in a tokenizer's settings that transformers 4 does not accept."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") in ("TokenizersBackend", "TwoSidedTokenizer"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):  # how it was loaded
        config.pop(name, None)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
