"""The summed cross-entropy and its gradient equal torch's for all chunk sizes."""

import pytest
import torch
import torch.nn.functional as F

import workflow.models.losses
from workflow.models.losses import summed_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("elements", [1, 100, 1 << 20])
def test_loss_and_gradient_are_torch_s(
    smoothing: float, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.models.losses, "ELEMENTS_ON_CPU", elements)
    torch.manual_seed(0)
    logits = (5 * torch.randn(37, 50)).requires_grad_()
    targets = torch.randint(50, (37,))
    theirs = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    (wanted,) = torch.autograd.grad(theirs * 0.3, logits)
    before = logits.detach().clone()
    without = summed_cross_entropy(before, targets, smoothing)
    torch.testing.assert_close(without, theirs, rtol=1e-6, atol=0)
    assert torch.equal(before, logits)
    ours = summed_cross_entropy(logits, targets, smoothing)
    (found,) = torch.autograd.grad(ours * 0.3, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3000, 40).bfloat16().requires_grad_()
    targets = torch.randint(40, (3000,))
    wanted = F.cross_entropy(logits.float(), targets, reduction="sum")
    without = summed_cross_entropy(logits.detach(), targets)
    loss = summed_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    assert torch.equal(without, loss.detach())
