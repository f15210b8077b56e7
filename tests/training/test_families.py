"""Encoder-decoder families other than T5 match transformers, from loading to predictions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    MULTILINGUAL,
    WITH_T5_TOKENIZER,
    make_byt5,
    make_family,
    make_marian,
    make_multilingual,
    make_t5gemma,
    make_t5gemma2,
)
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from workflow import BadInput, make_job, run_job
from workflow.memory.model_dims import sizes_of_model
from workflow.models.loading import Adaptation, load_model, save_model
from workflow.models.state_dict import file_tensors
from workflow.runs.mount import Mount

CODES = {
    "mbart50": ("en_XX", "fr_XX"),
    "mbart25": ("en_XX", "fr_XX"),
    "nllb": ("eng_Latn", "fra_Latn"),
    "m2m100": ("en", "fr"),
}
OTHERS: dict[str, Callable[[Path], None]] = {
    "t5gemma": make_t5gemma, "t5gemma2": make_t5gemma2, "byt5": make_byt5, "marian": make_marian,
}  # fmt: skip
FAMILIES = (*WITH_T5_TOKENIZER, *MULTILINGUAL, *OTHERS)
GLOBAL = {"led": "global_attention_mask"}


def make_any(family: str, folder: Path) -> dict[str, str]:
    """A model of any of these; returns the flags that it needs."""
    if family in MULTILINGUAL:
        make_multilingual(family, folder)
        return dict(zip(("source_lang", "target_lang"), CODES[family], strict=True))
    if family in OTHERS:
        OTHERS[family](folder)
    else:
        make_family(family, folder)
    return {}


def job_of(family: str, name: str, **flags: Any) -> Any:
    return make_job(
        "seq2seq", model_init_name=name, data_name="sums", bf16=False, max_source_length=128,
        max_target_length=64, **flags,
    )  # fmt: skip


def by_transformers(folder: Path, family: str, records: list[Any]) -> tuple[float, list[str]]:
    """The mean token loss and the greedy texts of transformers alone, a record at a time."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, tokens, texts = 0.0, 0, []
    for record in records:
        source = tokenizer(record["prompt"], return_tensors="pt")
        given = {"input_ids": source["input_ids"], "attention_mask": source["attention_mask"]}
        if family in GLOBAL:
            given[GLOBAL[family]] = torch.zeros_like(source["input_ids"]).index_fill(
                1, torch.tensor([0]), 1
            )
        labels = tokenizer(text_target=record["completion"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(**given, labels=labels).logits[0].float()
            ids = model.generate(**given, max_new_tokens=6, num_beams=1, do_sample=False)
        total += float(torch.nn.functional.cross_entropy(logits, labels[0], reduction="sum"))
        tokens += len(labels[0])
        texts.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
    return total / tokens, texts


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_generates_as_transformers_does(mount: Mount, family: str) -> None:
    languages = make_any(family, mount.models / family)
    original = AutoModelForSeq2SeqLM.from_pretrained(mount.models / family).state_dict()
    model = load_model(mount.models / family)
    for name, tensor in original.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    sizes, parts = sizes_of_model(model), (model.get_encoder(), model.get_decoder())
    assert [sizes.encoder_layers, sizes.decoder_layers] == [
        len(next(m for m in part.modules() if isinstance(m, torch.nn.ModuleList))) for part in parts
    ]
    job = job_of(
        family, family, max_steps=12, learning_rate=5e-3, max_new_tokens=6, dropout_rate=0,
        eval_steps=12, save_steps=12, **languages,
    )  # fmt: skip
    run = run_job(job, mount)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    items = json.loads((run / "temperature=0.00_n=1_step=12.json").read_text())
    records = [item["orig_d"] for item in items]
    names = [dict(file_tensors(f)).keys() for f in (run / "checkpoint-12", mount.models / family)]
    assert names[0] >= names[1]  # and positions that are computed
    loss, texts = by_transformers(run / "checkpoint-12", family, records)
    assert lines[-1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert [item["generations"][0]["lm_postprocess"] for item in items] == texts
    # Of its own checkpoint nothing has to be said again.
    evaluated = run_job(
        job_of(family, f"{run.name}/checkpoint-12", no_train=True, max_new_tokens=6), mount
    )
    (line,) = [json.loads(line) for line in (evaluated / "metrics.jsonl").read_text().splitlines()]
    assert line["loss"] == pytest.approx(lines[-1]["loss"], rel=1e-5)


def test_the_global_attention_of_led_is_trained(mount: Mount) -> None:
    make_family("led", mount.models / "led")
    before = load_model(mount.models / "led").state_dict()
    run = run_job(job_of("led", "led", max_steps=2, learning_rate=5e-3, max_new_tokens=2), mount)
    after = load_model(run / "checkpoint-2").state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    for kind in ("query", "key", "value"):
        assert f"led.encoder.layers.0.self_attn.longformer_self_attn.{kind}_global.weight" in moved


def test_learned_positions_bound_the_lengths(mount: Mount) -> None:
    make_family("bart", mount.models / "bart")
    make_family("led", mount.models / "led")
    job = make_job("seq2seq", model_init_name="bart", data_name="sums", max_source_length=2048)
    with pytest.raises(BadInput) as raised:
        run_job(job, mount)
    assert str(raised.value) == (
        "--max_source_length: 2048 (expected at most 1024, the model's maximum). "
        "Hint: add --max_source_length 1024."
    )
    job = make_job(
        "seq2seq", model_init_name="led", data_name="sums", max_target_length=600, max_steps=1
    )
    with pytest.raises(BadInput, match=r"600 \(expected at most 512, the model's maximum\)"):
        run_job(job, mount)
    # A limit that the user did not set gives way.
    job = make_job(
        "seq2seq", model_init_name="led", data_name="sums", max_steps=1, bf16=False,
        eval_on_start=False, max_new_tokens=2,
    )  # fmt: skip
    spec = json.loads((run_job(job, mount) / "training_args.json").read_text())
    assert (spec["max_source_length"], spec["max_target_length"]) == (512, 512)


def test_a_mask_without_a_row_gets_one(mount: Mount) -> None:
    """BART's models for summaries have no row for the last id of their tokenizer."""
    folder = mount.models / "bart"
    make_family("bart", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(folder)
    cut = AutoModelForSeq2SeqLM.from_pretrained(folder)
    cut.resize_token_embeddings(1000)
    cut.save_pretrained(folder)
    assert tokenizer.mask_token_id == 1000
    run = run_job(job_of("bart", "bart", max_steps=1, max_new_tokens=2), mount)
    saved = AutoModelForSeq2SeqLM.from_pretrained(run / "checkpoint-1")
    assert saved.get_input_embeddings().weight.shape[0] == 1001


def test_saving_keeps_a_family_s_tied_weights(mount: Mount, tokenizer: Any) -> None:
    for family, sizes in WITH_T5_TOKENIZER.items():
        make_family(family, mount.models / family)
        save_model(load_model(mount.models / family), tokenizer, mount.models / f"{family}2")
        config = json.loads((mount.models / f"{family}2" / "config.json").read_text())
        assert config.get("tie_word_embeddings", True) is sizes.get("tie_word_embeddings", True)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("family", FAMILIES)
def test_without_dropout_nothing_is_random(tmp_path: Path, family: str) -> None:
    make_any(family, tmp_path / family)
    ids = torch.arange(3, 40)[None] % 200

    def twice(rate: float) -> bool:
        model = load_model(tmp_path / family, Adaptation(dropout_rate=rate)).train()
        one, other = (model(input_ids=ids, decoder_input_ids=ids).logits for _ in range(2))
        return torch.equal(one, other)

    assert twice(0.0)
    assert not twice(0.5)


def test_dropout_reaches_every_part_of_a_model(tmp_path: Path) -> None:
    make_t5gemma(tmp_path / "t5gemma")
    model = load_model(tmp_path / "t5gemma", Adaptation(dropout_rate=0.25))
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
