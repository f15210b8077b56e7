"""Faster training on a CPU for all models: memory reuse and cheap dropout with byte masks."""

import ctypes
import os
from typing import Any

import torch

from workflow.models.kernels.fused import fused_activation
from workflow.models.kernels.replace import replace_modules

PRODUCTS_KEPT = 128
"""Shapes of 16-bit matrix products in oneDNN's cache."""

GIVEN_BACK = 1 << 17
"""Smallest block, in bytes, that is returned to the system when freed, if memory is not kept."""

LEVELS = 1 << 16
"""Dropout rates are rounded to multiples of 1 / LEVELS."""


def tune_memory(keeps: bool) -> None:
    """Set whether the process keeps freed memory, and limit oneDNN's caches.

    Every step allocates hundreds of megabytes again. By default glibc returns them to the system,
    and new memory costs a page fault per 4 KB, a fifth of a step (mallopt(3)). Keeping memory suits
    plain torch, whose allocations are alike in every step. DeepSpeed allocates large buffers of
    many sizes and took 1.7 times the memory in use, so blocks of 128 KB and more are returned (with
    a threshold of 1 MB, 0.9 GB of freed activations stayed in one case).

    oneDNN caches 1,024 shapes of 16-bit matrix products, each with up to 33 MB of scratch space; a
    step has less than half as many shapes as the limit set here. Must be called before the first
    product; does nothing on systems and builds without glibc or oneDNN.
    """
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(cache, str(PRODUCTS_KEPT))
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # see malloc.h
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
    """Replace modules of a model by equivalents with fewer memory passes."""

    def fast(module: torch.nn.Module) -> torch.nn.Module | None:
        if type(module) is torch.nn.Dropout:
            return Dropout(module.p)
        return fused_activation(module)

    replace_modules(model, fast)


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` by `drop`."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return drop(hidden, self.p) if self.training and self.p else hidden


def drop(hidden: torch.Tensor, rate: float) -> torch.Tensor:
    """Zero each element with probability `rate`, and scale the others to keep the mean."""
    dropped: torch.Tensor = _Dropped.apply(hidden, *random_mask(hidden, rate))
    return dropped


def random_mask(hidden: torch.Tensor, rate: float) -> tuple[torch.Tensor, float]:
    """A byte mask of the kept elements, and their scale.

    Uses 16 random bits of torch's generator per element, five times as fast as `bernoulli_`.
    """
    count = hidden.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(1 << 63), None)
    bits = bits.view(torch.int16)[:count].view(hidden.shape)
    dropped = min(round(rate * LEVELS), LEVELS - 1)
    kept = torch.empty(hidden.shape, dtype=torch.uint8)
    torch.ge(bits, dropped - LEVELS // 2, out=kept)
    return kept, LEVELS / (LEVELS - dropped)


def masked(hidden: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    """The kept elements of a tensor, scaled; the others are 0."""
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
