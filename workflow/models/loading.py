"""Loading and saving models, such that the model saved is the model trained is the model loaded."""

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
    """The model of a folder, every tensor equal to the file's.

    It comes to be on torch's default device, or partitioned where deepspeed.zero.Init is entered;
    then no process holds more than its own part and what is read of one tensor.
    Reads safetensors, or PyTorch files with weights only, in one file or in shards.

    Args:
        extension: the tokens that the model is to have besides.
        checkpoint: a folder of this very model, grown already, to take the values from.

    Raises:
        BadInput: where files are missing, broken or do not fit the configuration.
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
        raise BadInput([unusable(values, error, "weights that can be loaded")]) from error
    if problems := problems_of_misfits(misfits, values):
        raise BadInput(problems)
    model.eval()
    return model


def check_weight_files(folder: Path) -> None:
    """Raise BadInput where a folder's files of weights are not there or not readable."""
    try:
        for path in weight_files(folder):
            with open(path, "rb"):
                pass
    except LOADING_ERRORS as error:
        raise BadInput([unusable(folder, error, "weights that can be loaded")]) from error


def build_model(
    folder: Path,
    dropout_rate: float | None = None,
    extension: VocabExtension | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """The modules of a folder's model, whose parameters have no values yet.

    transformers 5 ties every T5's head to its embedding here, and would untie it later where the
    values differ, which partitioned ones never do. An own head is made its own at once.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(config, name):  # each process would leave out other layers
            setattr(config, name, 0.0)
    if dropout_rate is not None:
        set_dropout(config, dropout_rate)
    if extension is not None:
        widen_vocabulary(config, extension.new_tokens)
    model_class: Any = family_of(config).model_class(config)
    with no_init_weights():
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
        model.tie_weights()
        if hasattr(model, "lm_head") and says_own_head(config, folder):
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
    """The tensors of a folder's files, with rows for the tokens that the model is to have besides.

    A tensor that is not grown is mapped: what is not touched of it is not read.
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
    """The weights that read tokens: one that all share, or the encoder's and the decoder's own."""
    readers = model, model.get_encoder(), model.get_decoder()
    return [reader.get_input_embeddings().weight for reader in readers]


def says_own_head(config: Any, folder: Path) -> bool:
    """Whether a checkpoint says that its head is a matrix beside its embedding.

    transformers 5 forces `tie_word_embeddings` to true for the T5 family. What the checkpoint said
    remains in its config.json; where version 5 saved that, in `scale_decoder_outputs` (only tied
    T5 models scale).
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scales = getattr(config, "scale_decoder_outputs", None)
    return raw.get("tie_word_embeddings") is False or scales is False


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a plain Hugging Face folder of a model that this process holds all of."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = held_tensors(saved_names(model))
    files = plan_files("model", tensors)
    write_tensors(folder, files, tensors)
    write_index(folder, "model", files, tensors)
    save_settings(model, tokenizer, folder)


def held_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, Whole]:
    """Tensors to be written, of which this process holds all."""
    return {
        name: Whole(tensor.shape, partial(torch.Tensor.detach, tensor))
        for name, tensor in tensors.items()
    }


def save_settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write all that a plain Hugging Face folder has beside weights.

    transformers 4 and 5 read such a folder the same way.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32
    if _has_own_head(model):  # transformers 5 has true for all of the T5 family
        config.tie_word_embeddings = False
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # what Rust could not write comes as nothing more
        raise OSError(str(error)) from error
    sentencepiece = Path(tokenizer.name_or_path) / "spiece.model"
    if sentencepiece.is_file():  # transformers 5 reads it, and does not write it
        shutil.copyfile(sentencepiece, folder / sentencepiece.name)
    _reword_for_version_4(folder / "tokenizer_config.json")


def _has_own_head(model: PreTrainedModel) -> bool:
    """Whether the head is a matrix beside the embedding."""
    head = model.get_output_embeddings().weight
    own = all(head is not weight for weight in _embedding_weights(model))
    return own and not getattr(model.config, "scale_decoder_outputs", False)


def _reword_for_version_4(path: Path) -> None:
    """Use the words for a tokenizer that both versions know: version 4 stops at some of 5's."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") in ("TokenizersBackend", "TwoSidedTokenizer"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):  # of how it was loaded, not of what it is
        config.pop(name, None)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
