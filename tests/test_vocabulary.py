"""Characters made tokens: texts come back exactly, and the model grows with them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import T5_TINY, make_t5, write_data, write_hub_folder
from test_families import make_model

from workflow import make_job, run_job
from workflow.growth import Growth
from workflow.hub import load_tokenizer
from workflow.models import load_model, save_model
from workflow.mount import Mount
from workflow.vocabulary import grow_tokenizer

CHARACTERS = "\n\t{}\\~^`é中文½\u00a0"
TEXTS = [
    "a {b}\n\nc",
    "def f(x):\n    return {x: [1,  2]}\n",
    "{",
    "x{y} {z }",
    "  two before",
    "中文 text 中",
    "no change here.",
    "½ of it\u00a0all\t\\end",
]


def test_texts_come_back_exactly_also_after_saving(tmp_path: Path, tokenizer: Any) -> None:
    grown = grow_tokenizer(tokenizer, CHARACTERS)
    assert len(grown) == len(tokenizer) + len(CHARACTERS) + 1  # the space is a token too
    save_model(make_t5(), grown, tmp_path / "saved")
    for one in (grown, load_tokenizer(tmp_path / "saved")):
        for text in TEXTS:
            ids = one(text)["input_ids"]
            assert one.unk_token_id not in ids
            assert one.decode(ids, skip_special_tokens=True) == text
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # a class transformers 4 has


def test_random_texts_come_back_exactly(tokenizer: Any) -> None:
    rng = random.Random(0)
    grown = grow_tokenizer(tokenizer, CHARACTERS)
    alphabet = CHARACTERS + "abc yes no 12.,  "
    for _ in range(500):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 30)))
        ids = grown(text)["input_ids"]
        assert grown.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_what_a_vocabulary_knows_keeps_its_ids(tokenizer: Any) -> None:
    grown = grow_tokenizer(tokenizer, CHARACTERS)
    for text in ("add one: 4 7 1 9", "The king wrote the question. yes", "</s> <extra_id_3>"):
        assert grown(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("vocab_size", [1000, 1004, 1024])
def test_a_model_grows_and_keeps_what_it_knew(
    tmp_path: Path, tokenizer: Any, own_head: bool, vocab_size: int
) -> None:
    original = make_t5(own_head=own_head, vocab_size=vocab_size)
    before = original.state_dict()
    folder = write_hub_folder(original, tmp_path / "model", "safetensors")
    model = load_model(folder, growth=Growth(1000, 1010))
    assert model.config.vocab_size == max(vocab_size, 1010)
    assert (model.lm_head.weight is model.shared.weight) is not own_head
    for name in ("shared.weight", "lm_head.weight", "encoder.embed_tokens.weight"):
        assert torch.equal(model.state_dict()[name][:1000], before[name][:1000])
        assert not torch.equal(model.state_dict()[name][1000], model.state_dict()[name][1001])
    save_model(model, tokenizer, tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_bias_of_the_head_grows_too(tmp_path: Path) -> None:
    original = make_model("bart", tmp_path / "bart")
    original.final_logits_bias.copy_(torch.randn(1, 1024))
    save_model(original, load_tokenizer(tmp_path / "bart"), tmp_path / "model")
    model = load_model(tmp_path / "model", growth=Growth(1000, 1030))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.shape == (1030, 32)
    assert torch.equal(model.lm_head.weight[:1000], original.lm_head.weight[:1000])
    assert torch.equal(model.final_logits_bias[:, :1024], original.final_logits_bias)
    assert model.final_logits_bias[:, 1024:].tolist() == [[0.0] * 6]
    ids = torch.arange(999, 1029)[None]
    assert model(input_ids=ids, decoder_input_ids=ids).logits.shape == (1, 30, 1030)


def test_completions_that_could_not_be_written_are_learned_exactly(tmp_path: Path) -> None:
    """Newlines, braces, tabs and letters that are not Latin, to exact match 0.95 and more."""
    mount = Mount(tmp_path)
    mount.data.mkdir()
    (mount.models).mkdir()
    (mount.models / "t5-tiny").symlink_to(T5_TINY)
    records = [
        {
            "prompt": f"write this: {a} {b}",
            "completion": f"{{\n\t数: {a}\n\tдва: {b}\n}}" if a % 2 else f"[{b}]  ~{a}^2 \\ é",
        }
        for a in range(6)
        for b in range(6)
    ]
    write_data(mount, "code", records, records[::3])
    job = make_job(
        "seq2seq", model_init_name="t5-tiny", data_name="code", add_missing_tokens=True,
        max_steps=300, train_batch_size=18, learning_rate=2e-3, dropout_rate=0, bf16=False,
        eval_steps=300, eval_on_start=False,
    )  # fmt: skip
    run = run_job(job, mount)
    (line,) = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert line["exact_match"] >= 0.95
    audit = json.loads((run / "audit.json").read_text())
    assert set(audit["added_tokens"]) >= set("\n\t{}~^\\数два") - {"а"}
    evaluated = run_job(
        make_job(
            "seq2seq", model_init_name=f"{run.name}/checkpoint-300", data_name="code",
            no_train=True, bf16=False,
        ),
        mount,
    )  # fmt: skip
    name = "temperature=0.00_n=1_step=300.json"
    assert (evaluated / name).read_text() == (run / name).read_text()


def test_nothing_grows_where_nothing_is_missing(mount: Mount) -> None:
    job = make_job(
        "seq2seq", model_init_name="small", data_name="sums", add_missing_tokens=True, max_steps=1,
        max_new_tokens=2,
    )  # fmt: skip
    run = run_job(job, mount)
    assert json.loads((run / "audit.json").read_text())["added_tokens"] == []
    assert load_model(run / "checkpoint-1").config.vocab_size == 1024


def test_the_audit_alone_makes_no_run(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    from workflow.cli import main

    write_hub_folder(make_t5(), mount.models / "other", "bin")
    argv = ["--mount", str(mount.root), "--model_init_name", "other", "--data", "sums", "--audit"]
    assert main("seq2seq", "", argv) == 0
    told = capsys.readouterr().err
    assert "characters lost" in told
    assert {p.name for p in mount.models.iterdir()} == {"small", "other", ".cache"}
