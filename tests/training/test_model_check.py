"""A model that cannot train or generate is found before the run is created."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_families import job_of
from tiny_models import BART_SIZES, IDS, LED, POSITIONS, T5_SIZES, add_tokenizer, make_family
from transformers import CONFIG_MAPPING

import workflow.models.families
from workflow import BadInput
from workflow.models.families import REFUSED
from workflow.runs.mount import Mount
from workflow.training.model_check import small_copy
from workflow.training.prepare import prepare

BROKEN: dict[str, dict[str, Any]] = {
    # As many layers in the decoder as in the encoder is all that its cache is made for.
    "switch_transformers": T5_SIZES
    | {"num_decoder_layers": 3, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "fsmt": BART_SIZES | {"src_vocab_size": 1024, "tgt_vocab_size": 1024, "langs": ["en", "de"]},
}


def make_settings(mount: Mount, family: str, sizes: dict[str, Any]) -> Path:
    folder = mount.models / family
    CONFIG_MAPPING[family](**IDS, **sizes).save_pretrained(folder)
    add_tokenizer(folder)
    return folder


@pytest.mark.parametrize("family", BROKEN)
def test_a_model_that_fails_is_refused(
    mount: Mount, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow.models.families, "REFUSED", {})
    folder = make_settings(mount, family, BROKEN[family])
    with pytest.raises(BadInput) as raised:
        prepare(job_of(family, family), mount)
    (problem,) = raised.value.problems
    assert problem.where == str(folder / "config.json")
    assert problem.found.startswith(f"a {family} model whose small copy fails: ")
    assert problem.expected == "a model that trains, and generates or scores"
    assert not [path for path in mount.models.iterdir() if path.name.startswith(f"{family}_")]


@pytest.mark.parametrize("family", [*REFUSED, "mixtral", "qwen3_moe"])
def test_a_model_that_cannot_keep_the_promises_is_refused(mount: Mount, family: str) -> None:
    folder = mount.models / family
    folder.mkdir()
    add_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(BadInput) as raised:
        prepare(job_of(family, family), mount)
    (problem,) = raised.value.problems
    of_experts = "transformers joins several tensors of its files into one, as of experts"
    assert problem.found == f"the model type {family}: {REFUSED.get(family, of_experts)}"


def test_a_model_without_a_start_of_decoding_is_refused(mount: Mount) -> None:
    make_family("bart", mount.models / "bart")
    path = mount.models / "bart" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_start_token_id": None}))
    with pytest.raises(BadInput) as raised:
        prepare(job_of("bart", "bart"), mount)
    assert str(raised.value) == (
        f"{path}: no decoder_start_token_id (expected the id that decoding starts "
        'with). Hint: add "decoder_start_token_id" from the model card.'
    )


def test_a_small_copy_is_small_and_of_the_same_shape() -> None:
    large = T5_SIZES | {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 20}
    copy = small_copy(CONFIG_MAPPING["t5"](**IDS, **large, feed_forward_proj="gated-gelu"), 1500)
    assert sum(p.numel() for p in copy.parameters()) < 100_000
    assert copy.lm_head.weight.shape[0] == 1500
    assert (len(copy.encoder.block), len(copy.decoder.block)) == (2, 1)
    led = small_copy(CONFIG_MAPPING["led"](**IDS, **(BART_SIZES | POSITIONS | LED)), 9)
    assert led.config.attention_window == [12]
