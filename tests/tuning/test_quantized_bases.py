"""Adapters of bases in 8 and 4 bits: what stays precise, what learns, and what it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from conftest import make_t5
from test_training_adapters import assert_equal
from tuned_models import (
    assert_close,
    base_folder,
    by_peft,
    engine_of,
    gradient_of,
    logits_of,
    plain_logits,
    ready,
    save,
    stirred,
    take_step,
    tuned_job,
)

from workflow.models.loading import load_model
from workflow.models.quantized import layers_to_quantize, quantize, quantized_bytes
from workflow.models.state_dict import file_tensors

KINDS = ("t5", "llama", "opt", "bert", "deberta-v2")
BITS = (8, 4)
QUANTIZED = {8: Linear8bitLt, 4: Linear4bit}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_heads_norms_embeddings_and_wo_stay_as_they_are(
    kind: str, bits: int, tmp_path: Path
) -> None:
    job = tuned_job(kind, "lora", tmp_path, **{f"load_in_{bits}bit": True})
    model = ready(job)
    whole = load_model(base_folder(kind))
    small = {name for name, one in model.named_modules() if isinstance(one, QUANTIZED[bits])}
    small = {name.removesuffix(".base_layer") for name in small}
    wanted = {name for name, _ in layers_to_quantize(whole)}
    assert small == wanted
    assert wanted
    ends = {name.rpartition(".")[2] for name in wanted}
    assert not ends & {"wo", "lm_head", "classifier", "shared", "embed_tokens"}
    if kind == "t5":
        assert {"q", "k", "v", "o", "wi_0", "wi_1"} == ends
    given = whole.state_dict()
    for name, tensor in model.state_dict().items():
        plain = name.replace(".base_layer", "").replace(".modules_to_save.default", "")
        layer = plain.rpartition(".")[0]
        if plain in given and layer not in wanted:
            wanted_dtype = torch.float32
            assert tensor.dtype == wanted_dtype, name
            if not job.tuning.trains(whole, plain) or kind not in ("bert", "deberta-v2"):
                assert torch.equal(tensor, given[plain]), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_lora_learns_after_an_evaluation(kind: str, bits: int, bf16: bool, tmp_path: Path) -> None:
    """bitsandbytes packs 4-bit weights for a CPU in an evaluation; gradients end at packed ones."""
    job = tuned_job(kind, "lora", tmp_path, bf16=bf16, **{f"load_in_{bits}bit": True})
    engine = engine_of(job, ready(job))
    take_step(job, engine, 1)
    with engine.evaluating() as (model, _):
        before = logits_of(job, model)
    for step in (2, 3):
        held = {name: one.detach().clone() for name, one in job.tuning.trainable(engine.master)}
        outcome = take_step(job, engine, step)
        assert outcome.gradient_norm > 0
        for name, parameter in job.tuning.trainable(engine.master):
            assert not torch.equal(parameter, held[name]), name
    with engine.evaluating() as (model, _):
        after = logits_of(job, model)
    with pytest.raises(AssertionError):
        assert_close(after, before, 1e-3)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["t5", "llama", "bert"])
def test_an_evaluation_changes_no_gradient(kind: str, bits: int, tmp_path: Path) -> None:
    job = tuned_job(kind, "lora", tmp_path, **{f"load_in_{bits}bit": True})
    model = stirred(ready(job))
    wanted = gradient_of(job, model)
    first = logits_of(job, model)
    model.train()
    assert_equal(gradient_of(job, model), wanted, "after an evaluation")
    assert_close(logits_of(job, model), first, 1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_an_evaluation_changes_no_gradient_of_wider_layers(bits: int, tmp_path: Path) -> None:
    """Narrow ones cannot be packed; through wide ones that are, gradients are zero."""
    model: Any = make_t5(d_model=128, d_kv=32, d_ff=128, vocab_size=512)
    quantize(model, bits, torch.device("cpu"))
    tuned_job("t5", "lora", tmp_path).tuning.apply(model)
    stirred(model)

    def gradient() -> dict[str, torch.Tensor]:
        model.train()
        model.zero_grad()
        logits = model(input_ids=ids, decoder_input_ids=ids).logits
        logits.log_softmax(-1)[..., 3].sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    ids = torch.arange(5, 13)[None]
    wanted = gradient()
    assert all(float(one.norm()) > 0 for one in wanted.values())
    model.eval()
    with torch.no_grad():
        model(input_ids=ids, decoder_input_ids=ids)
    assert_equal(gradient(), wanted, "after an evaluation")


@pytest.mark.parametrize("bits", BITS)
def test_the_layers_take_what_the_plan_counts(bits: int) -> None:
    model: Any = make_t5(d_model=256, d_kv=64, d_ff=512)
    counts = [layer.weight.numel() for _, layer in layers_to_quantize(model)]
    names = [name for name, _ in layers_to_quantize(model)]
    quantize(model, bits, torch.device("cpu"))
    held = 0
    for name in names:
        weight = model.get_submodule(name).weight
        held += weight.numel() * weight.element_size()
        state = getattr(weight, "quant_state", None)
        if state is not None:
            for tensor in (state.absmax, state.state2.absmax):
                held += tensor.numel() * tensor.element_size()
    counted = sum(quantized_bytes(count, bits) for count in counts)
    assert held == pytest.approx(counted, rel=0.01)
    assert held < sum(counts) * (1.01 if bits == 8 else 0.53)


@pytest.mark.parametrize("bits", BITS)
def test_the_adapter_s_file_is_one_of_the_plain_base(bits: int, tmp_path: Path) -> None:
    """Heads and adapters in full precision, under the same names as without quantization."""
    job = tuned_job("bert", "lora", tmp_path, **{f"load_in_{bits}bit": True})
    engine = engine_of(job, stirred(ready(job)))
    take_step(job, engine, 1)
    checkpoint = save(job, engine, tmp_path / "run")
    plain = tuned_job("bert", "lora", tmp_path / "plain")
    names = plain.tuning.saved(ready(plain)).keys()
    saved = dict(file_tensors(checkpoint))
    assert saved.keys() == names
    assert {one.dtype for one in saved.values()} == {torch.float32}
    theirs = plain_logits(job, by_peft(checkpoint, base_folder("bert")))
    assert_close(logits_of(job, engine.model), theirs, 0.1)  # but for the bits
