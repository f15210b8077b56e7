"""What all adapters have in common: a frozen base, trained heads, and peft's files."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import peft
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, _set_trainable
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.config.request import JobRequest
from workflow.core.errors import BadInput, Problem
from workflow.models.families import family_of
from workflow.models.hub import LOADING_ERRORS, unusable
from workflow.tuning.base import TuningMethod

NAME = "default"
"""The adapter's name within peft's modules."""
_PARTS = (BaseTunerLayer, AuxiliaryTrainingWrapper)
"""peft's modules that have the base's modules within them."""


class Adapter(TuningMethod):
    """A frozen model with few new parameters, which alone are trained and saved.

    The head of a classifier is trained and saved too: peft does so only for heads of some names.
    """

    stem = "adapter_model"
    prefix = "base_model."

    def __init__(self, request: JobRequest, config: peft.PeftConfig | None = None):
        """An adapter as requested, or one of an existing checkpoint with its configuration."""
        self._request = request
        self._config: Any = config

    def trains(self, model: PreTrainedModel, name: str) -> bool:
        return any(_is_in(module, name) for module in self._modules_to_save(model))

    def apply(self, model: PreTrainedModel) -> None:
        if self._config is None:
            self._config = self._new_config(model)
            self._config.task_type = _task_type(model)
        self._config.inference_mode = False
        modules = self._modules_to_save(model)
        _check_modules(model, modules)
        self._config.modules_to_save = modules or None
        model.requires_grad_(False)
        self._add(model, self._config)

    @abstractmethod
    def _new_config(self, model: PreTrainedModel) -> Any:
        """The configuration of the adapter for a model."""

    @abstractmethod
    def _add(self, model: PreTrainedModel, config: Any) -> None:
        """Add the adapter's modules to a frozen model."""

    def _modules_to_save(self, model: PreTrainedModel) -> list[str]:
        """The names of modules that are trained and saved whole."""
        known = getattr(self._config, "modules_to_save", None)
        if known is None:
            return list(dict.fromkeys([*self._request.modules_to_save, *_heads(model)]))
        # peft adds the usual names of heads, whether the model has them or not.
        return [module for module in known if any(_is_in(module, name) for name in _names(model))]

    def name_in_file(self, name: str) -> str:
        """The name in peft's files of a trained parameter, which lacks that of the adapter.

        A module to save has its own name, and the magnitudes of DoRA are no module.
        """
        name = name.replace(f".modules_to_save.{NAME}.", ".").replace(f".{NAME}.", ".")
        name = name.removesuffix(f".{NAME}")
        name = name.removesuffix(".weight") if "lora_magnitude_vector" in name else name
        return self.prefix + name

    def saved(self, model: PreTrainedModel) -> dict[str, Any]:
        """The trained tensors under the names that peft gives them in files."""
        return {
            self.name_in_file(name): one
            for name, one in model.named_parameters()
            if one.requires_grad
        }

    def base_alone(self, model: PreTrainedModel) -> AbstractContextManager[None] | None:
        return _without(model)

    def write_settings(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, base: str
    ) -> None:
        assert self._config is not None
        self._config.base_model_name_or_path = base
        self._config.inference_mode = True
        self._config.save_pretrained(str(folder))
        self._config.inference_mode = False


@contextmanager
def _without(model: PreTrainedModel) -> Iterator[None]:
    """A model without what peft has put into its modules, within the block."""
    adapted = [one for one in model.modules() if isinstance(one, _PARTS)]
    for one in adapted:
        one.enable_adapters(False)
    try:
        yield
    finally:
        for one in adapted:
            one.enable_adapters(True)


def _check_modules(model: PreTrainedModel, modules: list[str]) -> None:
    """Raise BadInput for a module that does not exist, or whose weights others share."""
    named = list(model.named_parameters(remove_duplicate=False))
    where, problems = "--modules_to_save", []
    for module in modules:
        held = [one for name, one in named if _is_in(module, name)]
        sharing = [[name for name, other in named if other is one] for one in held]
        tied = next((names for names in sharing if len(names) > 1), None)
        if not held:
            hint = "name a module of the model, e.g. lm_head"
            problems.append(Problem(where, module, "a module with parameters", hint))
        elif tied:
            found = f"{module}, whose weights are tied: {' and '.join(tied)}"
            problems.append(Problem(where, found, "a module with weights of its own", "remove it"))
    if problems:
        raise BadInput(problems)


def _heads(model: PreTrainedModel) -> list[str]:
    """The largest modules that belong to a head entirely."""
    is_head = family_of(model.config).is_head
    body = [name for name in _names(model) if not is_head(model, name)]
    heads = []
    for name in _names(model):
        if is_head(model, name):
            parts = name.split(".")[:-1]
            prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
            heads.append(
                next(one for one in prefixes if not any(b.startswith(f"{one}.") for b in body))
            )
    return list(dict.fromkeys(heads))


def _names(model: PreTrainedModel) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _is_in(module: str, name: str) -> bool:
    """Whether a parameter is in a module, of whose name the beginning may be missing."""
    return f".{module}." in f".{name}"


def wrap_heads(model: PreTrainedModel, modules: list[str] | None) -> None:
    """Replace modules by peft's wrappers, which train a copy."""
    _set_trainable(model, NAME, modules, inference_mode=False)


def _task_type(model: PreTrainedModel) -> str:
    if not family_of(model.config).generates:
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def read_config(folder: Path) -> peft.PeftConfig:
    """The configuration of an adapter's folder; raises BadInput if peft cannot read it."""
    try:
        config: peft.PeftConfig = peft.PeftConfig.from_pretrained(str(folder))
        return config
    except (*LOADING_ERRORS, KeyError) as error:
        raise BadInput([unusable(folder, error, "an adapter that peft can read")]) from error
