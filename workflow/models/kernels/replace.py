"""Replace modules of a model."""

from collections.abc import Callable

import torch


def replace_modules(
    model: torch.nn.Module, equivalent: Callable[[torch.nn.Module], torch.nn.Module | None]
) -> None:
    """Replace each module for which `equivalent` returns another; parameters keep their names."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if (other := equivalent(child)) is not None:
                setattr(module, name, other)
    model.train(model.training)  # also for the new modules
