"""Missing characters become tokens: texts round-trip exactly, and the model is extended."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import T5_TINY, make_t5, write_data, write_hub_folder
from tiny_models import add_one_stack, make_family, make_one_stack
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from vocabularies import llama

from workflow import BadInput, make_job, run_job
from workflow.models.hub import load_tokenizer
from workflow.models.loading import Adaptation, load_model, save_model
from workflow.models.tokenizers.vocabulary import can_grow, count_ids, grow_tokenizer
from workflow.models.vocab_extension import VocabExtension
from workflow.runs.mount import Mount

MISSING = "é ☃ 好"
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


def test_texts_round_trip_exactly_also_after_saving(tmp_path: Path, tokenizer: Any) -> None:
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


def test_known_pieces_keep_their_ids(tokenizer: Any) -> None:
    grown = grow_tokenizer(tokenizer, CHARACTERS)
    for text in ("add one: 4 7 1 9", "The king wrote the question. yes", "</s> <extra_id_3>"):
        assert grown(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_extending_again_keeps_earlier_tokens(tokenizer: Any) -> None:
    grown = grow_tokenizer(tokenizer, CHARACTERS)
    assert grow_tokenizer(grown, []) is grown
    again = grow_tokenizer(grown, "\v\x1c\ue000")  # the first growth gave that one out
    for text in TEXTS:
        assert again(text)["input_ids"] == grown(text)["input_ids"]
    text = "\v\ue000\n \x1c{"
    assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text
    assert count_ids(again) == len(again) == len(grown) + 3


def test_a_tokenizer_extended_by_an_earlier_version_is_extended_again(tokenizer: Any) -> None:
    """It gave a combining mark a token of the same name, which was never matched."""
    old = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    tokens = {" ": "\ue000", "\n": "\ue001", "\u0303": "\u0303", "{": "{"}
    members = "[" + "".join(f"\\x{{{ord(token):X}}}" for token in tokens.values()) + "]"
    old.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("\n", "\ue001"),
            normalizers.Replace(Regex(" (?= )"), "\ue000"),
            normalizers.Replace(Regex(f" (?={members})"), "\ue000"),
            normalizers.Replace(Regex(f"(?<={members}) "), "\ue000"),
            old.normalizer,
        ]
    )
    old.add_tokens([AddedToken(token, normalized=True) for token in tokens.values()])
    old.decoder = decoders.Sequence(
        [
            old.decoder, decoders.Fuse(), decoders.Replace(Regex(f"(?<={members}) "), ""),
            decoders.Replace("\ue001", "\n"), decoders.Replace("\ue000", " "),
        ]
    )  # fmt: skip
    first = PreTrainedTokenizerFast(tokenizer_object=old, eos_token="</s>", pad_token="<pad>")
    grown = grow_tokenizer(first, "\t\u0303")
    assert grown("a {\n  b")["input_ids"] == first("a {\n  b")["input_ids"]
    text = "n\u0303\t{ \n\u0303"
    assert grown.decode(grown(text)["input_ids"], skip_special_tokens=True) == text
    assert len(grown) == len(first) + 1  # of the tab; the mark's has another name


def test_more_characters_than_the_first_plane_has_code_points_for(tokenizer: Any) -> None:
    grown = grow_tokenizer(
        tokenizer, map(chr, range(0x4E00, 0x9000)), map(chr, range(0xE000, 0xF900))
    )
    text = "".join(map(chr, range(0x4E00, 0x9000, 997))) + "  \u4e00"
    ids = grown(text)["input_ids"]
    assert grown.decode(ids, skip_special_tokens=True) == text
    assert grown.convert_ids_to_tokens(ids)[-3] == "\U000f0000"


def test_a_python_tokenizer_is_refused(tmp_path: Path) -> None:
    slow = ByT5Tokenizer()
    assert not can_grow(slow)
    with pytest.raises(BadInput) as raised:
        grow_tokenizer(slow, "\n")
    assert str(raised.value) == (
        "--add_missing_tokens: the model's ByT5Tokenizer, which runs in Python, outside the "
        "tokenizers library (expected an extensible tokenizer, e.g. from tokenizer.json or "
        "spiece.model). Hint: remove --add_missing_tokens."
    )


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("vocab_size", [1000, 1004, 1024])
def test_a_model_is_extended_and_keeps_its_rows(
    tmp_path: Path, tokenizer: Any, own_head: bool, vocab_size: int
) -> None:
    original = make_t5(own_head=own_head, vocab_size=vocab_size)
    before = original.state_dict()
    folder = write_hub_folder(original, tmp_path / "model", "safetensors")
    model = load_model(folder, Adaptation(extension=VocabExtension(1000, 1010)))
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
    original = make_family("bart", tmp_path / "bart")
    original.final_logits_bias.copy_(torch.randn(1, 1024))
    save_model(original, load_tokenizer(tmp_path / "bart"), tmp_path / "model")
    model = load_model(tmp_path / "model", Adaptation(extension=VocabExtension(1000, 1030)))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.shape == (1030, 32)
    assert torch.equal(model.lm_head.weight[:1000], original.lm_head.weight[:1000])
    assert torch.equal(model.final_logits_bias[:, :1024], original.final_logits_bias)
    assert model.final_logits_bias[:, 1024:].tolist() == [[0.0] * 6]
    ids = torch.arange(999, 1029)[None]
    assert model(input_ids=ids, decoder_input_ids=ids).logits.shape == (1, 30, 1030)


@pytest.mark.slow
def test_completions_with_missing_characters_are_learned_exactly(tmp_path: Path) -> None:
    """Newlines, braces, tabs and non-Latin letters reach an exact match of 0.95."""
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


def test_a_model_is_extended_twice_and_keeps_its_trained_rows(mount: Mount) -> None:
    """t5-tiny has 1000 tokens and 1024 rows; the second extension exceeds the spare rows."""
    many = "".join(map(chr, range(0x4E00, 0x4E20)))
    for name, text in (("first", "{\n  a\u0303}"), ("second", f"\t{{\u0301 {many}\n")):
        record = {"prompt": f"say {text}", "completion": text.strip()}
        write_data(mount, name, [record], [record])
    job: dict[str, Any] = {"add_missing_tokens": True, "max_steps": 1, "max_new_tokens": 2}
    job |= {"training_run_name": "first", "bf16": False}
    first = run_job(make_job("seq2seq", model_init_name="small", data_name="first", **job), mount)
    job |= {"training_run_name": "second", "learning_rate": 1e-12}
    second = run_job(
        make_job("seq2seq", model_init_name="first/checkpoint-1", data_name="second", **job), mount
    )
    tokenizer = load_tokenizer(second / "checkpoint-1")
    for text in ("{\n  a\u0303}", f"\t{{\u0301 {many}\n"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    audit = json.loads((second / "audit.json").read_text())
    assert set(audit["added_tokens"]) == {"\t", "\u0301", *many}
    before, after = (load_model(run / "checkpoint-1") for run in (first, second))
    learned = count_ids(load_tokenizer(first / "checkpoint-1"))
    assert before.config.vocab_size == 1024 < after.config.vocab_size == count_ids(tokenizer)
    for name in ("shared.weight", "lm_head.weight"):
        rows = [model.state_dict()[name][:learned] for model in (before, after)]
        assert torch.allclose(*rows, atol=1e-6)


@pytest.mark.parametrize("model", ["small", "gpt"])
def test_nothing_is_extended_if_nothing_is_missing(mount: Mount, model: str) -> None:
    """Of byte-level tokenizers nothing is ever missing."""
    add_one_stack(mount)
    text = "add one" if model == "small" else f"\t{MISSING}\n{{}}"
    records = [{"prompt": f"{text} {i}", "completion": f"{text} {i}"} for i in range(3)]
    write_data(mount, "texts", records, records)
    job = make_job(
        "seq2seq", model_init_name=model, data_name="texts", add_missing_tokens=True, max_steps=1,
        max_new_tokens=2,
    )  # fmt: skip
    run = run_job(job, mount)
    audit = json.loads((run / "audit.json").read_text())
    assert audit["added_tokens"] == []
    for part in audit["splits"]["train"].values():
        assert not isinstance(part, dict) or part.get("unknown_tokens", 0) == 0
    before = load_model(mount.models / model).config.vocab_size
    assert load_model(run / "checkpoint-1").config.vocab_size == before


@pytest.mark.parametrize("kind", ["llama", "bert", "deberta-v2"])
def test_models_with_one_stack_are_extended(mount: Mount, tmp_path: Path, kind: str) -> None:
    """A decoder-only model with its own head, and encoders, whose word pieces lose characters."""
    make_one_stack(kind, mount.models / kind)
    if kind == "llama":
        for name in ("vocab.json", "merges.txt"):
            (mount.models / kind / name).unlink()
        llama(tmp_path / "tokenizer", "first").save_pretrained(mount.models / kind)
    keys = ("prompt", "completion") if kind == "llama" else ("input", "target")
    records = [
        dict(zip(keys, (f"the {MISSING}", MISSING if kind == "llama" else i % 2), strict=True))
        for i in range(4)
    ]
    write_data(mount, "texts", records, records)
    job: dict[str, Any] = {"data_name": "texts", "max_steps": 1, "bf16": False}
    job |= {"max_source_length": 64, "task": "seq2seq" if kind == "llama" else "clf"}
    runs = [
        run_job(make_job(model_init_name=kind, training_run_name=f"{kind}-{add}",
                         add_missing_tokens=add, **job), mount)
        for add in (False, True)
    ]  # fmt: skip
    lossy, whole = (
        json.loads((run / "audit.json").read_text())["splits"]["train"]["prompts"] for run in runs
    )
    assert lossy["unknown_tokens"] >= lossy["lost"]["characters"]["☃"] == len(records)
    assert whole["unknown_tokens"] == whole["not_surviving"]["count"] == 0
    tokenizer = load_tokenizer(runs[1] / "checkpoint-1")
    shown = tokenizer.decode(tokenizer(MISSING)["input_ids"], skip_special_tokens=True)
    assert shown == MISSING
    rows = load_model(runs[1] / "checkpoint-1").get_input_embeddings().weight
    assert len(rows) >= count_ids(tokenizer) > count_ids(load_tokenizer(mount.models / kind))
    again = run_job(
        make_job(model_init_name=f"{kind}-True/checkpoint-1", no_train=True, **job), mount
    )
    losses = [
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for run in (runs[1], again)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_audit_only_creates_no_run(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    from workflow.cli.run import main

    write_hub_folder(make_t5(), mount.models / "other", "bin")
    argv = ["--mount", str(mount.root), "--model_init_name", "other", "--data", "sums", "--audit"]
    assert main("seq2seq", "", argv) == 0
    output = capsys.readouterr().err
    assert "lost characters" in output
    assert {p.name for p in mount.models.iterdir()} == {"small", "other", ".cache"}
