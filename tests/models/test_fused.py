"""The fused modules for GPUs match transformers, here on a CPU."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_t5, rows_of
from tiny_models import T5_SIZES
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedModel
from transformers.models.t5.modeling_t5 import T5LayerNorm

from workflow.models.batch import Batch, make_batch
from workflow.models.families import DecoderIds, family_of
from workflow.models.kernels.cross_attention import FoldedAttention
from workflow.models.kernels.fused import FUSED_ATTENTION, FusedNorm, biased_mask, cross_mask
from workflow.models.kernels.t5 import ATTENTION
from workflow.models.losses import summed_cross_entropy
from workflow.training.setup import _adapt


def make_model(kind: str) -> PreTrainedModel:
    """Flan-T5's layout, the first T5's, or mT5's."""
    if kind == "mt5":
        torch.manual_seed(0)
        ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
        sizes = T5_SIZES | {"num_layers": 2, "dropout_rate": 0.0}
        return MT5ForConditionalGeneration(MT5Config(vocab_size=1024, **sizes, **ids))
    return make_t5(own_head=kind == "flan-t5")


def packed_batch(seed: int = 0) -> Batch:
    """Rows of one to three examples of random lengths, none a multiple of 8 long."""
    draw = np.random.default_rng(seed)
    counts = (1, 3, 2)

    def rows(most: int) -> list[list[Any]]:
        return [[draw.integers(3, 1000, draw.integers(1, most)) for _ in range(parts)]
                for parts in counts]  # fmt: skip

    sources, inputs = rows(14), rows(7)
    tokens = sum(len(example) for row in inputs for example in row)
    targets = torch.from_numpy(draw.integers(3, 1000, tokens))
    return make_batch(rows_of(sources, inputs), targets, pad_id=0)


def loss_and_gradients(model: PreTrainedModel, batch: Batch) -> tuple[Any, dict[str, Any]]:
    model.train().zero_grad()
    logits = family_of(model.config).target_logits(model, batch)
    loss = summed_cross_entropy(logits, batch.targets)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.mark.parametrize(("device", "attention"), [("cpu", ATTENTION), ("cuda", FUSED_ATTENTION)])
def test_the_device_decides_which_modules_are_used(device: str, attention: str) -> None:
    model = make_t5()
    job: Any = SimpleNamespace(decoder_ids=DecoderIds(0))
    _adapt(model, job, torch.device(device))
    assert model.config._attn_implementation == attention
    assert any(type(module) is FusedNorm for module in model.modules()) == (device == "cuda")


@pytest.mark.parametrize("kind", ["flan-t5", "t5", "mt5"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_of_packed_rows_are_transformers_own(
    kind: str, checkpointing: bool
) -> None:
    plain = make_model(kind).double()
    fused = copy.deepcopy(plain)
    family_of(fused.config).use_fused_modules(fused)
    assert fused.config._attn_implementation == FUSED_ATTENTION
    assert list(fused.state_dict()) == list(plain.state_dict())
    if checkpointing:
        fused.activation_checkpointing_enable()
    batch = packed_batch()
    wanted_loss, wanted = loss_and_gradients(plain, batch)
    loss, found = loss_and_gradients(fused, batch)
    assert loss == pytest.approx(float(wanted_loss), rel=1e-6)
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 1e-6, name
    single = copy.deepcopy(fused).float()
    loss, found = loss_and_gradients(single, batch)
    for name, gradient in wanted.items():
        assert relative(found[name], gradient) < 2e-6, name


@pytest.mark.parametrize("kind", ["flan-t5", "t5", "mt5"])
def test_in_bfloat16_they_are_as_close_to_double_as_transformers(kind: str) -> None:
    exact = make_model(kind).double()
    plain = copy.deepcopy(exact).bfloat16()
    fused = copy.deepcopy(plain)
    family_of(fused.config).use_fused_modules(fused)
    errors = np.zeros(2)
    for seed in range(6):
        batch = packed_batch(seed)
        wanted_loss, wanted = loss_and_gradients(exact, batch)
        for kind_of_modules, model in enumerate((plain, fused)):
            loss, found = loss_and_gradients(model, batch)
            assert float(loss) == pytest.approx(float(wanted_loss), rel=1e-2)
            errors[kind_of_modules] += sum(relative(found[name], g) for name, g in wanted.items())
    assert errors[1] < 1.05 * errors[0]


def test_the_norm_rounds_once() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 40, 64).mul(3).add(1).bfloat16()
    norm = T5LayerNorm(64).bfloat16()
    norm.weight.data.uniform_(0.5, 1.5)
    double = hidden.double()
    wanted = double * (double.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight.double()
    found = FusedNorm(norm)(hidden)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted.bfloat16())
    assert not torch.equal(norm(hidden), wanted.bfloat16())


@pytest.mark.parametrize("keys", [5, 8, 13])
def test_masks_are_laid_out_for_memory_efficient_attention(keys: int) -> None:
    """Rows start at multiples of 8 elements, so torch copies no mask; all queries see a key."""
    model = make_t5().bfloat16()
    seen = torch.rand(3, 1, keys, keys) < 0.5
    seen |= torch.eye(keys, dtype=torch.bool)
    least = torch.finfo(torch.bfloat16).min
    for mask, heads in [
        (biased_mask(model.get_encoder(), seen), 4),
        (cross_mask(seen, torch.bfloat16), 1),
    ]:
        assert mask.dtype == torch.bfloat16
        assert mask.shape == (3, heads, keys, keys)
        assert mask.stride(-1) == 1
        assert all(stride % 8 == 0 for stride in mask.stride()[:-1])
        assert torch.equal(mask == least, ~seen.expand_as(mask))
        assert not (mask == least).all(-1).any()


def test_layers_add_no_mask_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stack's layers get one tensor, which attention uses as it is."""
    model = make_t5()
    family_of(model.config).use_fused_modules(model)
    used: list[tuple[int, ...]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def recorded(*given: Any, attn_mask: torch.Tensor, **named: Any) -> torch.Tensor:
        used.append((attn_mask.untyped_storage()._cdata, *attn_mask.shape[:2]))
        return original(*given, attn_mask=attn_mask, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    loss_and_gradients(model, packed_batch())
    assert len(used) == 2 + 2 * 2
    assert sorted(heads for _, rows, heads in set(used)) == [1, 4, 4]


def test_scoring_s_cross_attention_adds_the_same_mask() -> None:
    model = make_t5()
    plain = FoldedAttention(model.get_decoder().block[0].layer[1].EncDecAttention)
    seen = torch.rand(2, 1, 3, 5) < 0.5
    seen[..., 0] = True
    hidden, encoded = torch.randn(2, 3, 32), torch.randn(2, 5, 32)
    found, wanted = (
        plain(hidden, mask, encoded)[0] for mask in (cross_mask(seen, torch.float32), seen)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_generation_s_masks_still_get_the_position_bias() -> None:
    plain = make_t5()
    fused = copy.deepcopy(plain)
    family_of(fused.config).use_fused_modules(fused)
    ids = torch.arange(3, 21).view(2, 9)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with torch.no_grad():
        wanted, found = (
            model(input_ids=ids, attention_mask=mask, labels=ids).logits for model in (plain, fused)
        )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
