"""LoRA, DoRA and (IA)³: peft's modules in place of linear layers."""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import peft
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from workflow.core.errors import BadInput, Problem
from workflow.models.configuration import ADAPTER_DROPOUT
from workflow.tuning.adapter import Adapter

_QUERIES = ("q", "q_proj", "q_lin", "query", "query_proj")
_KEYS = ("k", "k_proj", "k_lin", "key", "key_proj")
_VALUES = ("v", "v_proj", "v_lin", "value", "value_proj")
_JOINED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj")
"""Names of layers that compute queries, keys and values at once."""
_OUTPUTS = (
    "wo", "fc2", "down_proj", "mlp.c_proj", "dense_4h_to_h", "lin2", "output.dense", "mlp.Wo",
)  # fmt: skip
"""Names of the last layer of feed-forward blocks."""


class _InLayers(Adapter):
    """Adapters whose modules take the place of linear layers."""

    prefix = "base_model.model."

    def _add(self, model: PreTrainedModel, config: Any) -> None:
        targets = _targets(model, config.target_modules)
        self._check(model, config, targets)
        config.fan_in_fan_out = Conv1D in {type(module) for module in targets.values()}
        peft.inject_adapter_in_model(config, model)

    def _check(
        self, model: PreTrainedModel, config: Any, targets: dict[str, torch.nn.Module]
    ) -> None:
        """Raise BadInput for layers that cannot be replaced."""


class Lora(_InLayers):
    """W x + (alpha / r) B A dropout(x), with trained A and B (Hu et al. 2021, arXiv:2106.09685).

    By default on queries and values, as there. With --use_dora also a trained magnitude of each
    output (Liu et al. 2024, arXiv:2402.09353).
    """

    def _new_config(self, model: PreTrainedModel) -> Any:
        request = self._request
        asked = request.lora_target_modules
        targets = list(asked) or _present(model, (*_QUERIES, *_VALUES, *_JOINED))
        return peft.LoraConfig(
            r=request.lora_r,
            lora_alpha=request.lora_alpha,
            lora_dropout=request.lora_dropout,
            use_dora=request.use_dora,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
        )

    def _add(self, model: PreTrainedModel, config: Any) -> None:
        setattr(model.config, ADAPTER_DROPOUT, config.lora_dropout)
        super()._add(model, config)

    def _check(
        self, model: PreTrainedModel, config: Any, targets: dict[str, torch.nn.Module]
    ) -> None:
        where, problems = "--lora_target_modules", []
        linear = sorted({name.rpartition(".")[2] for name, _ in _linear_layers(model)})
        hint = f"this model has {', '.join(linear)}"
        names = config.target_modules
        for name in () if isinstance(names, str) else sorted(names):
            if not any(_ends(found, name) for found, _ in _linear_layers(model)):
                problems.append(Problem(where, name, "a linear layer of the model", hint))
        if not targets and not problems:
            problems.append(Problem(where, "no layers by default", "linear layers", hint))
        head = model.get_output_embeddings()
        if any(module is head for module in targets.values()):
            found = "the output layer"
            hint = "remove it, or train it whole by --modules_to_save"
            problems.append(Problem(where, found, "layers before it", hint))
        if problems:
            raise BadInput(problems)

    def initial(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> dict[str, torch.Tensor]:
        """A uniform as in peft, B zero; magnitudes are those of the base, as peft has set them.

        NumPy draws: torch's numbers depend on what was drawn before.
        """
        values = {}
        for name, tensor in self.saved(model).items():
            if ".lora_A." in name:
                generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
                bound = tensor.shape[1] ** -0.5
                drawn = generator.uniform(-bound, bound, tensor.shape).astype(np.float32)
                values[name] = torch.from_numpy(drawn)
            elif ".lora_B." in name:
                values[name] = torch.zeros(tensor.shape)
            elif "lora_magnitude_vector" in name:
                values[name] = tensor.detach().float().cpu().clone()
        return values


class Ia3(_InLayers):
    """Trained factors of keys, values and feed-forward inputs.

    Liu et al. 2022, arXiv:2205.05638, with the layers that peft chooses.
    """

    def _new_config(self, model: PreTrainedModel) -> Any:
        outputs = _present(model, _OUTPUTS)
        return peft.IA3Config(
            target_modules=[*_present(model, (*_KEYS, *_VALUES, *_JOINED)), *outputs],
            feedforward_modules=outputs,
        )

    def initial(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> dict[str, torch.Tensor]:
        named = self.saved(model).items()
        return {name: torch.ones(one.shape) for name, one in named if ".ia3_l" in name}


def _linear_layers(model: PreTrainedModel) -> list[tuple[str, torch.nn.Module]]:
    return [
        (name, one) for name, one in model.named_modules()
        if isinstance(one, torch.nn.Linear | Conv1D)
    ]  # fmt: skip


def _ends(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _present(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Those of some names that linear layers of the model have."""
    layers = [name for name, _ in _linear_layers(model)]
    return [suffix for suffix in names if any(_ends(name, suffix) for name in layers)]


def _targets(model: PreTrainedModel, names: Any) -> dict[str, torch.nn.Module]:
    """The layers that peft replaces."""
    if names == "all-linear":
        head = model.get_output_embeddings()
        return {name: one for name, one in _linear_layers(model) if one is not head}
    if isinstance(names, str):
        return {name: one for name, one in _linear_layers(model) if re.fullmatch(names, name)}
    layers = _linear_layers(model)
    return {name: one for name, one in layers if any(_ends(name, suffix) for suffix in names)}
