"""The plan of adapters and frozen weights: what autograd saves on a CPU, and what is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_layers_on_cpu as layers
import torch
from test_layers_on_cpu import ROWS, SOURCE, TARGET, saved_bytes
from test_memory import write_config
from transformers import CONFIG_MAPPING

from workflow.config.request import JobRequest
from workflow.config.task_specs import TASK_SPECS
from workflow.distributed.strategy import ShardingStrategy
from workflow.memory.activations import Work, activation_bytes
from workflow.memory.estimate import predict
from workflow.memory.model_dims import Sizes, checkpoint_bytes, sizes_of, sizes_of_model
from workflow.memory.tuned_layers import TunedLayers
from workflow.models.configuration import set_dropout
from workflow.models.families import family_of
from workflow.tuning import tuning_of

LAYOUTS = layers.LAYOUTS | {
    "t5": {
        "d_model": 256, "num_heads": 4, "d_ff": 640, "num_layers": 4,
        "num_hidden_layers": 4, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
    },
}  # fmt: skip
KINDS = ["t5", "llama", "gpt2", "bert"]
TUNINGS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora"},
    "lora without dropout": {"tuning": "lora", "lora_dropout": 0.0},
    "lora everywhere": {"tuning": "lora", "lora_target_modules": ("all-linear",)},
    "dora": {"tuning": "lora", "use_dora": True},
    "ia3": {"tuning": "ia3"},
    "prompt": {"tuning": "prompt"},
    "prefix": {"tuning": "prefix"},
    "bottom": {"freeze": ("bottom:2",)},
}


def request_of(**flags: Any) -> JobRequest:
    return JobRequest(task="seq2seq", **{**TASK_SPECS["seq2seq"].defaults, **flags})


def tuned(kind: str, bf16: bool, dropout: float = 0.0, **flags: Any) -> Any:
    """A model of eight layers in all, in the precision that computes."""
    ids = {"vocab_size": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = CONFIG_MAPPING[kind](**{"num_hidden_layers": 8} | LAYOUTS[kind] | ids)
    set_dropout(config, dropout)
    family = family_of(config)
    model = family.model_class(config)._from_config(config)
    tuning_of(request_of(**flags)).apply(model)
    family.use_fast_modules(model)
    return model.to(torch.bfloat16 if bf16 else torch.float32).train()


def ratio_of(model: Any, bf16: bool) -> float:
    """Planned over saved; without logits, which tests of all layouts leave out."""
    positions = ROWS * (SOURCE + TARGET)
    work = Work(bf16, SOURCE, TARGET, positions, on_gpu=False)
    return activation_bytes(sizes_of_model(model), work)["activations"] / saved_bytes(model)


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_is_what_autograd_saves(kind: str, tuning: str, bf16: bool) -> None:
    if tuning == "prefix" and kind in ("t5", "bert"):
        pytest.skip("these have no prefix")
    assert 0.85 < ratio_of(tuned(kind, bf16, **TUNINGS[tuning]), bf16) < 1.15


@pytest.mark.parametrize("tuning", ["lora", "ia3", "bottom"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_dropout_too(kind: str, tuning: str) -> None:
    assert 0.85 < ratio_of(tuned(kind, True, 0.1, **TUNINGS[tuning]), True) < 1.15


def test_under_a_head_alone_layers_keep_nothing() -> None:
    model = tuned("bert", False, freeze=("body",))
    found = sizes_of_model(model)
    work = Work(False, SOURCE, TARGET, ROWS * (SOURCE + TARGET), on_gpu=False)
    whole = activation_bytes(replace(found, tuned=TunedLayers()), work)["activations"]
    assert found.tuned.silent == 8
    assert saved_bytes(model) < 0.001 * whole
    assert activation_bytes(found, work)["activations"] < 0.1 * whole  # what a layer computes with


def test_layers_that_gradients_reach() -> None:
    def silent(kind: str, **flags: Any) -> int:
        return sizes_of_model(tuned(kind, False, **flags)).tuned.silent

    assert silent("gpt2", freeze=("bottom:3",)) == 3
    assert silent("gpt2", tuning="prefix") == silent("gpt2", tuning="prompt") == 0
    assert silent("t5", freeze=("bottom:3",)) == 3  # the decoder's get some from the encoder's
    assert silent("t5", freeze=("encoder", "shared")) == 4
    assert silent("llama") == 0


def sizes_with(folder: Path, bits: int | None = None, **flags: Any) -> Sizes:
    return sizes_of(folder, None, tuning_of(request_of(**flags)).apply, bits)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("tuned") / "xl", "xl")


PARAMETERS, LORA = 2_849_757_184, 4_718_592
"""Of Flan-T5-XL, and of LoRA on its 144 queries and values: 8 × (2048 + 2048) each."""


def test_what_is_frozen_takes_compute_precision_alone(xl: Path) -> None:
    sizes = sizes_with(xl, tuning="lora")
    assert (sizes.parameters, sizes.trained) == (PARAMETERS + LORA, LORA)
    assert sizes.largest_trained == 8 * 2048
    for bf16, frozen, own in ((True, 2, 6), (False, 4, 4)):
        phases = {one.name: one for one in predict(sizes, Work(bf16, 64, 64, 128), None).phases}
        update = phases["update"].device
        assert update["weights"] == frozen * PARAMETERS + own * LORA
        assert (update["gradients"], update["optimizer"]) == (4 * LORA, 8 * LORA)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "fp32"])
def test_sharded_states_are_those_of_trained_parameters(xl: Path, bf16: bool, stage: int) -> None:
    sizes, work = sizes_with(xl, tuning="lora"), Work(bf16, 64, 64, 128, processes=4)
    found = predict(sizes, work, ShardingStrategy(stage, gathers=False))
    backward = next(one for one in found.phases if one.name == "backward").device
    held = PARAMETERS + LORA
    assert backward["weights"] == work.computing * (held / 4 if stage == 3 else held)
    assert (backward["masters"], backward["optimizer"]) == (LORA, 2 * LORA)
    assert backward["gradients"] <= 6 * LORA


def test_a_quantized_base(xl: Path) -> None:
    plain, work = sizes_with(xl, tuning="lora"), Work(True, 64, 64, 128)
    precise = 2 * 32128 * 2048 + 48 * 5120 * 2048  # embeddings, head, wo
    for bits, taken in ((4, 0.516), (8, 1.0)):
        sizes = sizes_with(xl, bits, tuning="lora")
        small = PARAMETERS - sizes.quantized
        assert 0 < small - precise < 0.001 * PARAMETERS  # norms and position biases
        assert sizes.frozen_bytes(2) == pytest.approx(2 * small + taken * sizes.quantized, rel=1e-3)
        saved = predict(plain, work, None).device - predict(sizes, work, None).device
        assert saved == pytest.approx((2 - taken) * sizes.quantized, rel=0.02)
        loading = predict(sizes, work, None).phases[0]
        assert (loading.name, loading.host) == ("load", {"weights": 2 * (PARAMETERS + LORA)})
        on_cpu = replace(work, on_gpu=False)
        assert predict(sizes, on_cpu, None).device >= 2 * PARAMETERS
    kept = 3 * 2048 + 2 * 2048  # inputs of all layers in 8 bits, in encoder and decoder
    assert sizes.tuned.inputs == kept / (kept + 2 * 5120)


def test_frozen_parts_have_no_states(xl: Path) -> None:
    sizes = sizes_with(xl, freeze=("bottom:20",))
    assert sizes.tuned.silent == 20
    assert 0 < sizes.trained < 0.25 * sizes.parameters == 0.25 * PARAMETERS
    assert checkpoint_bytes(sizes) == (4 * PARAMETERS, 4 * PARAMETERS + 8 * sizes.trained)
