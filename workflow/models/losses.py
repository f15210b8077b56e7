"""Token cross-entropy in float32 that never holds all logits in float32."""

from typing import Any

import torch

ELEMENTS_ON_CPU, ELEMENTS_ON_GPU = 1 << 20, 1 << 24
"""Logits converted to float32 at a time: 4 MB, which fit in a CPU's cache; 64 MB, whose passes take
a GPU several times as long (20 µs at 3 TB/s) as the host takes to launch them."""


def summed_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """The float32 sum of the cross-entropies of `targets` (tokens,) under `logits` (tokens, words).

    Label smoothing is that of `torch.nn.functional.cross_entropy`. The gradient, if required,
    overwrites the logits.
    """
    loss: torch.Tensor = _SummedCrossEntropy.apply(logits, targets, label_smoothing)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """Computes the gradient with the loss, a few rows at a time, in the logits' dtype."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float
    ) -> torch.Tensor:
        words = logits.shape[-1]
        on_cpu = logits.device.type == "cpu"
        rows = max(1, (ELEMENTS_ON_CPU if on_cpu else ELEMENTS_ON_GPU) // words)
        gradient = logits.detach() if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), dtype=torch.float32, device=logits.device)
        buffer = torch.empty(min(rows, len(logits)), words, device=logits.device)
        for start in range(0, len(logits), rows):
            part = buffer[: len(logits) - start].copy_(logits[start : start + rows])
            target = targets[start : start + rows, None]
            greatest = part.amax(-1, keepdim=True)
            right = part.gather(1, target)
            mean = part.mean(-1, keepdim=True) if label_smoothing else right
            exponentials = part.sub_(greatest).exp_()
            total = exponentials.sum(-1, keepdim=True)
            expected = torch.lerp(right, mean, label_smoothing)
            loss += (total.log() + greatest - expected).sum()
            if gradient is not None:  # overwrites the logits
                probabilities = exponentials.div_(total)
                if label_smoothing:
                    probabilities -= label_smoothing / words
                probabilities.scatter_add_(1, target, torch.full_like(right, label_smoothing - 1))
                gradient[start : start + rows] = probabilities
        ctx.gradient = gradient
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient.mul_(outputs[0]), None, None
