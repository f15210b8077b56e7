"""Models are loaded and saved without changing any value."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_t5, write_hub_folder
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration

from workflow.core.errors import BadInput
from workflow.models.hub import fetch_settings, fetch_weights, load_config, load_tokenizer
from workflow.models.lm_head import select_logits
from workflow.models.loading import Adaptation, load_model, save_model
from workflow.models.state_dict import file_tensors

COMMIT = "0123abcd" * 5
LAYOUTS = ["safetensors", "bin", "sharded-safetensors", "sharded-bin"]


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 23).reshape(2, 10)
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=ids[:, :4]).logits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("own_head", [True, False])
def test_the_hub_s_layouts_load_exactly(tmp_path: Path, layout: str, own_head: bool) -> None:
    original = make_t5(own_head=own_head)
    folder = write_hub_folder(original, tmp_path / "model", layout)
    loaded = load_model(folder)
    assert (loaded.lm_head.weight is loaded.shared.weight) is not own_head
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(logits(loaded), logits(original))


@pytest.mark.parametrize("own_head", [True, False])
def test_a_saved_folder_is_plain_and_gives_the_same_logits(
    tmp_path: Path, own_head: bool, tokenizer: Any
) -> None:
    original = make_t5(own_head=own_head)
    save_model(original, tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is not own_head
    assert ("lm_head.weight" in dict(file_tensors(tmp_path / "saved"))) is own_head
    by_transformers = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    for loaded in (load_model(tmp_path / "saved"), by_transformers):
        assert torch.equal(logits(loaded), logits(original))
    text = "add one: 4 7 </s> yes?"
    assert load_tokenizer(tmp_path / "saved")(text) == tokenizer(text)
    save_model(original, load_tokenizer(tmp_path / "saved"), tmp_path / "again")
    for path in (tmp_path / "saved").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
        assert path.stat().st_mode == (tmp_path / "saved" / "config.json").stat().st_mode


def test_a_saved_folder_has_the_settings_for_transformers_4(tmp_path: Path, tokenizer: Any) -> None:
    """Version 4 ties by default and does not accept a list of extra special tokens."""
    save_model(make_t5(), tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config
    assert config["additional_special_tokens"] == [f"<extra_id_{i}>" for i in range(100)]
    assert (tmp_path / "saved" / "spiece.model").is_file()
    assert not {"is_local", "local_files_only"} & config.keys()


def test_a_folder_with_sentencepiece_alone_has_a_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    """E.g. google/t5-v1_1 and google/mt5 on the hub."""
    folder = write_hub_folder(make_t5(), tmp_path / "model", "bin")
    (folder / "tokenizer.json").unlink()
    for text in ("add one: 4 7 </s> <extra_id_3> yes?", "A {b}\n\nc  d", "ﬁne ½ \u4e2d"):
        assert load_tokenizer(folder)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_an_untied_head_equal_to_the_embedding_stays_untied(tmp_path: Path) -> None:
    original = make_t5()
    original.lm_head.weight.data.copy_(original.shared.weight)
    loaded = load_model(write_hub_folder(original, tmp_path / "model", "bin"))
    assert loaded.lm_head.weight is not loaded.shared.weight
    assert torch.equal(loaded.lm_head.weight, loaded.shared.weight)
    assert torch.equal(logits(loaded), logits(original))


def test_a_layer_missing_in_config_json_is_reported(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 1}))
    with pytest.raises(BadInput, match=r"unexpected tensors: encoder\.block\.1"):
        load_model(str(folder))


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    original = make_t5().to(torch.bfloat16)
    loaded = load_model(write_hub_folder(original, tmp_path / "model", "safetensors"))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.lm_head.weight, original.lm_head.weight.float())


def test_a_missing_head_is_reported(tmp_path: Path) -> None:
    model = make_t5()
    folder = write_hub_folder(model, tmp_path / "model", "safetensors")
    tensors = dict(file_tensors(folder))
    del tensors["lm_head.weight"], tensors["encoder.final_layer_norm.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(BadInput) as raised:
        load_model(folder)
    assert str(raised.value) == (
        f"{folder}: missing tensors: encoder.final_layer_norm.weight, lm_head.weight (expected "
        "all tensors of the model). Hint: download the model again."
    )


class _Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "bin")
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump({"shared.weight": _Payload(tmp_path / "ran")}, file, protocol=2)
    with pytest.raises(BadInput, match="loadable weights"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_mismatched_shape_is_reported(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"d_ff": 128}))
    with pytest.raises(BadInput) as raised:
        load_model(folder)
    assert str(raised.value) == (
        f"{folder}: mismatched shapes: "
        "decoder.block.0.layer.2.DenseReluDense.wi_0.weight ([64, 32] instead of [128, 32]), "
        "decoder.block.0.layer.2.DenseReluDense.wi_1.weight ([64, 32] instead of [128, 32]), "
        "decoder.block.0.layer.2.DenseReluDense.wo.weight ([32, 64] instead of [32, 128]) and 9 "
        "more "
        "(expected weights that fit config.json). Hint: correct config.json or download the "
        "model again."
    )


def test_a_vocabulary_larger_than_the_model_is_reported(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(vocab_size=512), tmp_path / "model", "safetensors")
    with pytest.raises(BadInput, match=r"vocab_size 512 \(expected at least 1000, the number"):
        load_config(folder, len(load_tokenizer(folder)))


def test_a_hub_name_is_loaded_from_the_cache_while_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of huggingface_hub's cache: refs name a commit, snapshots hold its files."""
    cached = tmp_path / "models--google--flan-t5-xl"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    write_hub_folder(make_t5(), cached / "snapshots" / COMMIT, "bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = fetch_weights("google/flan-t5-xl")
    assert fetch_settings("google/flan-t5-xl") == folder
    assert torch.equal(logits(load_model(folder)), logits(make_t5()))


def test_dropout_can_be_set(tmp_path: Path) -> None:
    folder = write_hub_folder(make_t5(), tmp_path / "model", "safetensors")
    rates = {
        m.p
        for m in load_model(folder, Adaptation(0.25)).modules()
        if isinstance(m, torch.nn.Dropout)
    }
    assert rates == {0.25}


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_logits_are_computed_at_the_selected_positions_only(family: str) -> None:
    model: Any = make_t5() if family == "t5" else _make_bart()
    positions = torch.tensor([0, 2, 5, 6, 7])
    whole = logits(model)
    with select_logits(model, positions):
        some = logits(model)
    torch.testing.assert_close(some, whole.flatten(0, 1)[positions])
    assert torch.equal(logits(model), whole)


def _make_bart() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=1024, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    return BartForConditionalGeneration(config).eval()
