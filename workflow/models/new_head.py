"""A classification head that a checkpoint does not have: drawn from a seed."""

import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.models.families import family_of
from workflow.models.state_dict import Named, file_tensors, model_name, saved_names, whole_shape


def new_tensors(model: PreTrainedModel, present: Collection[str]) -> list[str]:
    """The names of the head's tensors that are not among those `present` in a checkpoint."""
    is_head = family_of(model.config).is_head
    return [name for name in saved_names(model) if is_head(model, name) and name not in present]


def head_changes(model: PreTrainedModel, folder: Path) -> tuple[list[str], list[str]]:
    """The head's tensors that are new, and those in a folder's files that are not used."""
    by_name, is_head = saved_names(model), family_of(model.config).is_head
    if not new_tensors(model, ()):  # no head that a folder could lack: do not read its files
        return [], []
    present, unused = set(), []
    for given, tensor in file_tensors(folder):
        name = model_name(model, by_name, given) or given
        if not is_head(model, name):
            continue
        if name in by_name and whole_shape(by_name[name]) == tensor.shape:
            present.add(name)
        else:
            unused.append(given)
    return new_tensors(model, present), unused


def draw_head(model: PreTrainedModel, names: Collection[str], seed: int) -> Iterator[Named]:
    """Initial values: matrices from a normal distribution, biases 0, weights of norms 1.

    The deviation is `initializer_range` of the model, as in transformers. NumPy draws, since
    torch's numbers depend on device and precision.
    """
    tensors, deviation = saved_names(model), getattr(model.config, "initializer_range", 0.02)
    for name in names:
        shape = whole_shape(tensors[name])
        if len(shape) > 1:
            generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
            drawn = generator.standard_normal(shape, np.float32)
            yield name, torch.from_numpy(drawn * np.float32(deviation))
        else:
            yield name, torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
