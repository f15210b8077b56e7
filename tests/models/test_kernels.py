"""The CPU kernels match torch and transformers."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from conftest import ROOT, make_t5
from torch.utils.checkpoint import checkpoint
from transformers.models.t5.modeling_t5 import T5LayerNorm

from workflow.models.families import family_of
from workflow.models.kernels.attention import Attended
from workflow.models.kernels.cpu import drop
from workflow.models.kernels.t5 import ATTENTION, RootMeanSquareNorm, _Gated


def gradients_are_exact(function: Any, *shapes: tuple[int, ...]) -> bool:
    """Whether a function's gradient is that of finite differences, in float64."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def seeded(*values: torch.Tensor) -> Any:
        torch.manual_seed(1)
        return function(*values)

    return torch.autograd.gradcheck(seeded, inputs)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_the_norm_and_its_gradient_are_t5_s(dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    hidden, gradient = torch.randn(3, 40, 64).mul(3).add(1).to(dtype), torch.randn(3, 40, 64)
    gradient = gradient.to(dtype)
    norm = T5LayerNorm(64, eps=1e-6)
    weight = norm.weight = torch.nn.Parameter(torch.rand(64).add(0.5).to(dtype))
    exact = T5LayerNorm(64).double()
    exact.weight.data.copy_(weight.data)
    wanted_hidden, hidden = hidden.double().requires_grad_(), hidden.requires_grad_()
    wanted = wanted_hidden * (wanted_hidden.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    wanted = wanted * exact.weight
    wanted.backward(gradient.double())
    found = RootMeanSquareNorm(norm)(hidden)
    found.backward(gradient)
    assert found.dtype == dtype
    assert relative(found, wanted) < bound
    assert hidden.grad is not None
    assert weight.grad is not None
    assert wanted_hidden.grad is not None
    assert exact.weight.grad is not None
    assert relative(hidden.grad, wanted_hidden.grad) < bound
    assert relative(weight.grad, exact.weight.grad) < bound


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1001, 999, dtype=dtype, requires_grad=True)
    dropped = drop(ones, rate)
    dropped.sum().backward()
    share = (dropped == 0).double().mean()
    assert abs(share - rate) < 4 * (rate * (1 - rate) / ones.numel()) ** 0.5 + 1e-5
    assert torch.unique(dropped).tolist() == pytest.approx([0, 1 / (1 - rate)], rel=5e-3)
    assert ones.grad is not None
    assert torch.equal(ones.grad, dropped)
    by_column = (dropped == 0).double().mean(0)
    assert by_column.std() < 1.2 * (rate * (1 - rate) / 1001) ** 0.5


def test_dropout_comes_from_torch_s_seed_and_is_drawn_alike_when_recomputed() -> None:
    ones = torch.ones(50, 7, requires_grad=True)
    torch.manual_seed(3)
    first = drop(ones, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, drop(ones, 0.5))
    assert not torch.equal(first, drop(ones, 0.5))
    again: Any = checkpoint(lambda x: drop(x, 0.5) * x, ones, use_reentrant=False)
    again.sum().backward()
    assert torch.equal(ones.grad, 2 * again)


def test_recomputed_values_have_their_gradient() -> None:
    assert gradients_are_exact(_Gated.apply, (5, 7), (5, 7))
    assert gradients_are_exact(lambda x: drop(x, 0.3), (5, 7))

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any) -> Any:
        return Attended.apply(query, key, value, bias, 0.3)

    shapes = (2, 6, 4, 5), (2, 3, 7, 5), (2, 3, 7, 5), (2, 6, 4, 7)
    assert gradients_are_exact(attend, *shapes)
    hidden = torch.arange(7) > 4
    assert gradients_are_exact(lambda *inputs: attend(*inputs, hidden), *shapes[:3])


@pytest.mark.parametrize("own_head", [True, False])
def test_a_model_matches_transformers(own_head: bool) -> None:
    plain = make_t5(own_head=own_head)
    fast = copy.deepcopy(plain)
    family_of(fast.config).use_fast_modules(fast)
    assert fast.config._attn_implementation == ATTENTION
    assert list(fast.state_dict()) == list(plain.state_dict())
    torch.manual_seed(0)
    ids = torch.randint(3, 1000, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    for model in (plain, fast):
        model.train()
        model(input_ids=ids, attention_mask=mask, labels=ids.flip(1)).loss.backward()
    for (name, wanted), found in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert relative(found.grad, wanted.grad.double()) < 1e-5, name


def test_attention_with_dropout_matches_torch_except_for_dropped_weights() -> None:
    """At a rate that rounds to 0, the dropout path matches torch."""
    plain = make_t5()
    fast = copy.deepcopy(plain)
    for module in fast.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 1e-9
    family_of(fast.config).use_fast_modules(fast.train())
    ids = torch.arange(3, 21).view(2, 9)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with torch.no_grad():
        wanted = plain(input_ids=ids, attention_mask=mask, labels=ids).logits
        found = fast(input_ids=ids, attention_mask=mask, labels=ids).logits
        for module in fast.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.5
        dropped = fast(input_ids=ids, attention_mask=mask, labels=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (dropped - wanted).abs().max() > 0.01


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_reused() -> None:
    program = """
import resource, torch
from workflow.models.kernels.cpu import tune_memory
tune_memory(keeps=True)
for _ in range(10):
    torch.ones(20_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(20_000_000)  # 80 MB, which are 20,000 pages
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
assert faults < 60_000, faults
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
