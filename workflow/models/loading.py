"""Load and save models without changing any value."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
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
from workflow.models.new_head import draw_head, new_tensors
from workflow.models.safetensors_writer import Whole, plan_files, write_index, write_tensors
from workflow.models.state_dict import (
    Named,
    file_names,
    file_tensors,
    load_state_dict,
    model_name,
    problems_of_misfits,
    saved_names,
    weight_files,
    whole_shape,
)
from workflow.models.vocab_extension import VocabExtension

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True)
class Adaptation:
    """How a job changes the model of a folder.

    Attributes:
        dropout_rate: None for the model's own.
        extension: additional tokens of the model.
        seed: of a classification head, if the folder has none.
        classes: the names of a classification head's outputs; () for two without names.
    """

    dropout_rate: float | None = None
    extension: VocabExtension | None = None
    seed: int = 0
    classes: tuple[str, ...] = ()


AS_IT_IS = Adaptation()


def load_model(
    folder: Path | str,
    adaptation: Adaptation = AS_IT_IS,
    dtype: torch.dtype = torch.float32,
    checkpoint: Path | None = None,
    in_float32: Callable[[PreTrainedModel, str], bool] = lambda model, name: False,
) -> PreTrainedModel:
    """Load the model of a folder, with every tensor equal to the file's.

    Reads safetensors or PyTorch weights, in one file or in shards. The model is on torch's default
    device, or partitioned within deepspeed.zero.Init; then each process holds only its own
    partition and at most one tensor at a time.

    Args:
        checkpoint: a folder of the same model, already adapted, to load the values from.
        in_float32: which parameters, by the model and their names, are float32 whatever the dtype.

    Raises:
        BadInput: files are missing, damaged or do not fit the configuration.
    """
    folder = Path(folder)
    values = checkpoint or folder
    check_weight_files(values)
    try:
        model = build_model(folder, adaptation, dtype)
        for name, tensor in saved_names(model).items() if dtype != torch.float32 else ():
            if in_float32(model, name):
                tensor.data = torch.empty_like(tensor, dtype=torch.float32)
        misfits = load_state_dict(
            model, file_tensors(values) if checkpoint else weights_of(model, values, adaptation)
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
    adaptation: Adaptation = AS_IT_IS,
    dtype: torch.dtype = torch.float32,
    draws: bool = False,
) -> PreTrainedModel:
    """Create the modules of a folder's model.

    Args:
        draws: whether transformers draws the parameters; else they have no values.

    transformers 5 ties every T5's head to its embedding here, and unties it later if the values
    differ, which does not work for partitioned parameters. An untied head is created here instead.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if hasattr(config, name):  # each process would drop different layers
            setattr(config, name, 0.0)
    if adaptation.dropout_rate is not None:
        set_dropout(config, adaptation.dropout_rate)
    if adaptation.extension is not None:
        widen_vocabulary(config, adaptation.extension.new_tokens)
    family_of(config).set_classes(config, adaptation.classes)
    model_class: Any = family_of(config).model_class(config)
    with nullcontext() if draws else no_init_weights():
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
        model.tie_weights()
        tied: Any = getattr(model, "lm_head", None)
        embedding: Any = model.get_input_embeddings()
        is_tied = getattr(tied, "weight", None) is embedding.weight
        if is_tied and has_untied_head(config, folder):
            bias = tied.bias is not None
            model.lm_head = torch.nn.Linear(
                tied.in_features, tied.out_features, bias=bias, dtype=dtype
            )
    model.generation_config = load_generation_settings(folder)
    model.name_or_path = str(folder)
    return model


def weights_of(
    model: PreTrainedModel, folder: Path, adaptation: Adaptation = AS_IT_IS
) -> Iterator[Named]:
    """The tensors of a folder's files, with rows for additional tokens, and a new head's.

    Tensors that are not extended are memory-mapped.
    """
    is_head = family_of(model.config).is_head
    by_name = model.state_dict(keep_vars=True)
    present = set()
    for given, tensor in _extended(model, folder, adaptation.extension):
        name = model_name(model, by_name, given) or given
        if is_head(model, name):
            if name not in by_name or whole_shape(by_name[name]) != tensor.shape:
                continue  # of another task
            present.add(name)
        yield given, tensor
    yield from draw_head(model, new_tensors(model, present), adaptation.seed)


def _extended(
    model: PreTrainedModel, folder: Path, extension: VocabExtension | None
) -> Iterator[Named]:
    if extension is None:
        yield from file_tensors(folder)
        return
    by_name = model.state_dict(keep_vars=True)
    output = model.get_output_embeddings()
    words = {id(weight) for weight in (*_embedding_weights(model), getattr(output, "weight", None))}
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
    readers = [model]
    if model.config.is_encoder_decoder:
        readers += [model.get_encoder(), model.get_decoder()]
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
    tensors = held_tensors(file_names(model))
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
    _add_rope_of_version_4(folder / "config.json")
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
    _reword_for_version_4(folder / "tokenizer_config.json", tokenizer.model_input_names)


def _is_head_untied(model: PreTrainedModel) -> bool:
    """Whether the head is untied from the embeddings."""
    head = model.get_output_embeddings()
    own = all(head is not None and head.weight is not w for w in _embedding_weights(model))
    return own and not getattr(model.config, "scale_decoder_outputs", False)


def _add_rope_of_version_4(path: Path) -> None:
    """Repeat rotary settings under their names in transformers 4, which would use defaults."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if settings := _rope_of_version_4(config.get("rope_parameters") or {}):
        text = json.dumps(config | settings, indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")


def _rope_of_version_4(rope: dict[str, Any]) -> dict[str, Any]:
    if by_layer := {kind: of for kind, of in rope.items() if isinstance(of, dict)}:  # Gemma 3
        theta = {kind: of["rope_theta"] for kind, of in by_layer.items()}
        return {
            "rope_theta": theta["full_attention"],
            "rope_local_base_freq": theta["sliding_attention"],
        }
    if "rope_theta" not in rope:
        return {}
    plain = rope.get("rope_type", "default") == "default"
    return {"rope_theta": rope["rope_theta"]} | ({} if plain else {"rope_scaling": rope})


def _reword_for_version_4(path: Path, inputs: list[str]) -> None:
    """Replace names in a tokenizer's settings that transformers 4 does not accept.

    Args:
        inputs: what the tokenizer returns; of a class for all models, version 4 adds
            token_type_ids, which many models refuse.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") in ("TokenizersBackend", "TwoSidedTokenizer"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config["model_input_names"] = inputs
    for name in ("is_local", "local_files_only"):  # how it was loaded
        config.pop(name, None)
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
