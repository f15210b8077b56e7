"""Other encoder-decoder families than T5 go the same way through load, train, save and evaluate."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import T5_TINY
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    LongT5Config,
    MT5Config,
    PegasusConfig,
    UMT5Config,
)

from workflow import BadInput, make_job, run_job
from workflow.models import load_model, save_model
from workflow.mount import Mount

IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "vocab_size": 1024}
T5_SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
BART_SIZES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "bos_token_id": 0, "forced_eos_token_id": 1, "max_position_embeddings": 1024,
}  # fmt: skip
FAMILIES = {
    "mt5": (MT5Config, T5_SIZES | {"tie_word_embeddings": False}),
    "umt5": (UMT5Config, T5_SIZES | {"tie_word_embeddings": False}),
    "longt5": (LongT5Config, T5_SIZES | {"tie_word_embeddings": False}),
    "bart": (BartConfig, BART_SIZES),
    "pegasus": (PegasusConfig, BART_SIZES),
}


def make_model(family: str, folder: Path) -> Any:
    """A random model whose head is its own where the configuration says so."""
    config_class, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config_class(**IDS, **sizes))
    if "tie_word_embeddings" in sizes:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(1024, 32))
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {
        name: value for name, value in sizes.items() if name == "tie_word_embeddings"
    }
    path.write_text(json.dumps(config))
    for file in T5_TINY.iterdir():
        if file.name not in ("model.safetensors", "config.json", "generation_config.json"):
            shutil.copy(file, folder)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_its_checkpoint_is_the_trained_model(mount: Mount, family: str) -> None:
    original = make_model(family, mount.models / family)
    loaded = load_model(mount.models / family)
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    run = run_job(
        make_job(
            "seq2seq", model_init_name=family, data_name="sums", max_steps=30, learning_rate=5e-3,
            bf16=False, max_new_tokens=4,
        ),
        mount,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    model = AutoModelForSeq2SeqLM.from_pretrained(run / "checkpoint-30")
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied is (family in ("bart", "pegasus"))
    evaluated = run_job(
        make_job(
            "seq2seq", model_init_name=f"{run.name}/checkpoint-30", data_name="sums",
            no_train=True, bf16=False, max_new_tokens=4,
        ),
        mount,
    )  # fmt: skip
    (line,) = [json.loads(line) for line in (evaluated / "metrics.jsonl").read_text().splitlines()]
    assert line["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-5)


def test_learned_positions_bound_the_lengths(mount: Mount) -> None:
    make_model("bart", mount.models / "bart")
    job = make_job("seq2seq", model_init_name="bart", data_name="sums", max_source_length=2048)
    with pytest.raises(BadInput) as raised:
        run_job(job, mount)
    assert str(raised.value) == (
        "--max_source_length: found 2048; expected at most 1024, the positions this model has; "
        "add --max_source_length 1024"
    )


def test_saving_keeps_what_a_family_says_of_tying(mount: Mount, tokenizer: Any) -> None:
    for family, (_, sizes) in FAMILIES.items():
        make_model(family, mount.models / family)
        save_model(load_model(mount.models / family), tokenizer, mount.models / f"{family}2")
        config = json.loads((mount.models / f"{family}2" / "config.json").read_text())
        assert config.get("tie_word_embeddings", True) is sizes.get("tie_word_embeddings", True)
