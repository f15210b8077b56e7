"""What makes a CPU fast whatever the model: memory that is kept, cheap random bits.

And what makes it hold little for the backward pass: what is dropped, in a byte.
"""

import ctypes
import os
from typing import Any

import torch
from transformers.activations import NewGELUActivation

PRODUCTS_KEPT = 128
"""Shapes of 16-bit products that oneDNN remembers."""

GIVEN_BACK = 1 << 17
"""Bytes of a block that is given back when it is freed, where memory is not kept."""

LEVELS = 1 << 16
"""Dropout rates are rounded to multiples of 1 / LEVELS."""


def tune_memory(keeps: bool) -> None:
    """Settle what the process does with memory that it frees, and let it have small caches.

    Every step allocates the same hundreds of megabytes anew. glibc gives them back to the system
    in between, and memory that is new costs a page fault for each 4 KB, a fifth of a step
    (mallopt(3)). Keeping it suits plain torch, which allocates alike in every step. DeepSpeed makes
    and drops large buffers of many sizes, and took 1.7 times what it used at once: there blocks of
    128 KB and more are given back; with a megabyte 0.9 GB of freed activations stayed in one case.

    oneDNN keeps 1,024 products of 16-bit matrices by their shapes, with up to 33 MB of scratch
    space each; no step has half as many shapes as it may keep here. Must be called before the
    first product; does nothing on systems and in builds that know neither.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(PRODUCTS_KEPT))
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # as in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if keeps:
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)
    else:
        mallopt(mmap_threshold, GIVEN_BACK)


def use_fast_modules(model: torch.nn.Module) -> None:
    """Let a model compute the same with fewer passes over its memory."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(module, name, Dropout(child.p))
            elif type(child) is NewGELUActivation:
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
    model.train(model.training)  # the modules that took the place of others too


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` by `drop`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return drop(hidden, self.p) if self.training and self.p else hidden


def drop(hidden: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero each element with probability `rate`, and scale the others so that the mean stays."""
    dropped: torch.Tensor = _Dropped.apply(hidden, *random_mask(hidden, rate))
    return dropped


def random_mask(hidden: torch.Tensor, rate: float) -> tuple[torch.Tensor, float]:
    """Which elements are kept, a byte each, and what they are multiplied by.

    Takes 16 bits of torch's generator an element, five times as fast as `bernoulli_`.
    """
    count = hidden.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = bits.view(torch.int16)[:count].view(hidden.shape)
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    kept = torch.empty(hidden.shape, dtype=torch.uint8)
    torch.ge(bits, dropped - LEVELS // 2, out=kept)
    return kept, LEVELS / (LEVELS - dropped)


def masked(hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    """What is kept of a tensor, scaled."""
    return kept.to(hidden.dtype).mul_(scale).mul_(hidden)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return masked(hidden, kept, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return masked(gradients[0], kept, ctx.scale), None, None
