"""Full fine-tuning: all parameters but the frozen are trained; checkpoints hold the whole model."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from workflow.core.errors import BadInput, Problem
from workflow.models.families import family_of
from workflow.models.hub import shorten_names
from workflow.models.loading import save_settings
from workflow.models.state_dict import file_names, saved_names
from workflow.tuning.base import TuningMethod


class FullTuning(TuningMethod):
    """Trains all parameters but those of the parts named by --freeze."""

    def __init__(self, freeze: Sequence[str] = ()):
        self._freeze = freeze

    def trains(self, model: PreTrainedModel, name: str) -> bool:
        return not any(_is_part(model, part, name) for part in self._freeze)

    def apply(self, model: PreTrainedModel) -> None:
        names = [name for name, _ in model.named_parameters()]
        problems = [
            Problem("--freeze", part, f"{_PARTS}, e.g. {shorten_names(names)}", hint)
            for part in self._freeze
            if (hint := _hint(model, part))
        ]
        if problems:
            raise BadInput(problems)
        for name, parameter in saved_names(model).items():
            if parameter.requires_grad and not self.trains(model, name):
                parameter.requires_grad_(False)
        if not any(True for _ in self.trainable(model)):
            found = f"{' '.join(self._freeze)}, which freezes all parameters of this model"
            hint = "freeze less; a head tied to the embeddings is frozen with them"
            raise BadInput([Problem("--freeze", found, "parameters left to train", hint)])

    def saved(self, model: PreTrainedModel) -> dict[str, Any]:
        return file_names(model)

    def write_settings(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: str
    ) -> None:
        save_settings(model, tokenizer, folder)


_PARTS = "embeddings, encoder, decoder, body, bottom:N, or a pattern found in parameter names"
_BOTTOM = re.compile(r"bottom:(\d+)")


def _is_part(model: PreTrainedModel, part: str, name: str) -> bool:
    """Whether a parameter, by its first name, belongs to a part of a model.

    What encoder and decoder share has a name of its own, and belongs to neither.
    """
    if part == "embeddings":
        return _is_embedding(model, name)
    if part == "body":
        return not _is_head(model, name)
    if part in ("encoder", "decoder"):
        return model.config.is_encoder_decoder and name.startswith(
            _prefix_of(model, model.get_encoder() if part == "encoder" else model.get_decoder())
        )
    if found := _BOTTOM.fullmatch(part):
        number = _layer_number(model, name)
        below = number is not None and number < int(found[1])
        return below or _is_embedding(model, name)
    return re.search(part, name) is not None


def _is_head(model: PreTrainedModel, name: str) -> bool:
    if family_of(model.config).is_head(model, name):
        return True
    head = model.get_output_embeddings()
    return head is not None and name.startswith(_prefix_of(model, head))


def _is_embedding(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter belongs to the embeddings of words, positions and types, or their norm.

    That is what comes before the layers of a stack. (T5 has its relative position bias, also an
    embedding, in its first layer.)
    """
    if _layer_number(model, name) is not None or _is_head(model, name):
        return False
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, torch.nn.Embedding) or "embed" in name.rpartition(".")[0]


def _layer_number(model: PreTrainedModel, name: str) -> int | None:
    """The number of the layer that a parameter belongs to, in its stack; None outside of layers."""
    for found in re.finditer(r"\.(\d+)\.", name):
        layer = model.get_submodule(name[: found.end() - 1])
        if isinstance(layer, GradientCheckpointingLayer):
            return int(found[1])
    return None


def _prefix_of(model: PreTrainedModel, module: Any) -> str:
    return next(f"{name}." for name, one in model.named_modules() if one is module)


def _hint(model: PreTrainedModel, part: str) -> str | None:
    """What is wrong with a part to freeze, as a hint; None if nothing is."""
    layers = {_layer_number(model, name) for name, _ in model.named_parameters()} - {None}
    if found := _BOTTOM.fullmatch(part):
        return None if 0 < int(found[1]) <= len(layers) else f"the model has {len(layers)} layers"
    try:
        matched: Iterator[str] = (n for n in saved_names(model) if _is_part(model, part, n))
        return None if next(matched, None) else "it is no part of this model, nor matches a name"
    except re.error as error:
        return f"it is no regular expression: {error}"
