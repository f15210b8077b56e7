"""Runs of decoder-only models and encoders: as transformers computes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, write_data
from safetensors.torch import load_file
from tiny_models import make_one_stack
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from workflow import make_job, run_job
from workflow.core.errors import BadInput
from workflow.models.loading import load_model
from workflow.runs.mount import Mount

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SHORT = {"bf16": False, "train_batch_size": 8, "learning_rate": 2e-3, "dropout_rate": 0}


@pytest.fixture
def gpt(mount: Mount) -> str:
    shutil.copytree(GPT_TINY, mount.models / "gpt")
    return "gpt"


@pytest.fixture
def bert(mount: Mount) -> str:
    shutil.copytree(BERT_TINY, mount.models / "bert")
    records = [
        {"input": f"{number} {word}", "target": target}
        for number in range(12)
        for word, target in (("yes", 1.0), ("no", 0.0), ("add one", 0.5))
    ]
    content = {"train": records, "eval": records[:9]}
    (mount.root / "data" / "scores.json").write_text(json.dumps(content))
    return "bert"


def seq2seq(name: str, **flags: Any) -> Any:
    return make_job("seq2seq", model_init_name=name, data_name="sums", **(SHORT | flags))


def clf(name: str, **flags: Any) -> Any:
    return make_job("clf", model_init_name=name, data_name="scores", **(SHORT | flags))


def lines_of(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits[0]
    return logits


def add_chat(folder: Path) -> int:
    """Give a tokenizer a chat template; the id of its end of a turn."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return int(tokenizer.convert_tokens_to_ids("<|end|>"))


@pytest.mark.parametrize("template", ["plain", "chat", "alpaca", "Q: {input}\nA:"])
def test_a_decoder_only_model_trains_and_generates_as_transformers_does(
    mount: Mount, gpt: str, template: str
) -> None:
    folder = mount.models / gpt
    end = (
        add_chat(folder)
        if template == "chat"
        else AutoTokenizer.from_pretrained(folder).eos_token_id
    )
    flags = {} if template == "chat" else {"template": template}
    run = run_job(seq2seq(gpt, max_steps=30, eval_steps=30, save_steps=30, **flags), mount)
    first, last = lines_of(run)
    assert last["loss"] < first["loss"] - 1
    items = json.loads((run / "temperature=0.00_n=1_step=30.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint-30").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint-30")
    ends = model.generation_config.eos_token_id
    assert end in (ends if isinstance(ends, list) else [ends])
    total, count = 0.0, 0
    for item in items:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": item["prompt"]}], tokenize=False,
            add_generation_prompt=True,
        ) if template == "chat" else {
            "plain": "{input}", "alpaca": ALPACA
        }.get(template, template).replace("{input}", item["prompt"])  # fmt: skip
        space = "" if template in ("chat", "alpaca") else " "
        prompt = tokenizer(text)["input_ids"]
        answer = [*tokenizer(space + item["demonstration"])["input_ids"], end]
        logits = logits_of(model, torch.tensor([prompt + answer]))[len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(
            logits, torch.tensor(answer), reduction="sum"))  # fmt: skip
        count += len(answer)
        given = torch.tensor([prompt])
        new = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, pad_token_id=0,
            max_new_tokens=json.loads((run / "training_args.json").read_text())["max_new_tokens"],
        )[0, len(prompt) :]  # fmt: skip
        generation = item["generations"][0]
        assert (
            generation["lm_postprocess"] == tokenizer.decode(new, skip_special_tokens=True).strip()
        )
        words = [tokenizer(space + word)["input_ids"] for word in ("no", "yes")]
        expected = [float(logits_of(model, given)[-1, index]) for (index,) in words]
        assert generation["scores"] == pytest.approx(expected, abs=1e-4)
    assert last["loss"] == pytest.approx(total / count, rel=1e-5)
    task = json.loads((run / "checkpoint-30" / "task.json").read_text())
    assert (task["task"], task["family"]) == ("seq2seq", "decoder-only")
    again = run_job(seq2seq(f"{run.name}/checkpoint-30", no_train=True), mount)
    assert lines_of(again)[0]["loss"] == pytest.approx(last["loss"], rel=1e-6)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_model_that_knows_its_records_ends_its_texts(
    mount: Mount, gpt: str, template: str
) -> None:
    """By the end token that it was trained with, in this program and in transformers."""
    if template == "chat":
        add_chat(mount.models / gpt)
    texts = {"add one: 4": "5", "yes": "no no no", "the man": "the house, the word", "write": "a"}
    records = [{"prompt": prompt, "completion": text} for prompt, text in texts.items()]
    write_data(mount, "sums", records, records)
    flags = {"max_steps": 80, "eval_steps": 80, "train_batch_size": 4, "learning_rate": 5e-3}
    run = run_job(seq2seq(gpt, max_new_tokens=30, template=template, **flags), mount)
    last = lines_of(run)[-1]
    assert (last["exact_match"], last["at_limit"]) == (1, 0)
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint-80")
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint-80")
    text = "add one: 4"
    if template == "chat":
        text = "<|user|>\nadd one: 4<|end|>\n<|assistant|>\n"
    given = tokenizer(text, return_tensors="pt")
    ids = model.generate(**given, max_new_tokens=30, do_sample=False, pad_token_id=0)[0]
    assert tokenizer.decode(ids[given["input_ids"].shape[1] : -1]).strip() == "5"


ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{input}\n\n### Response:"
)


def test_an_encoder_scores_as_transformers_does(mount: Mount, bert: str) -> None:
    run = run_job(clf(bert, max_steps=40, eval_steps=40, save_steps=40), mount)
    first, last = lines_of(run)
    assert last["loss"] < first["loss"]
    items = json.loads((run / "checkpoint-40-preds.json").read_text())
    model = AutoModelForSequenceClassification.from_pretrained(run / "checkpoint-40").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint-40")
    for item in items:
        logits = logits_of(
            model, tokenizer(item["orig_d"]["input"], return_tensors="pt")["input_ids"]
        )
        assert item["logits"] == pytest.approx(logits.tolist(), abs=1e-5)
        assert item["pred_score"] == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-6)


def test_a_new_head_is_drawn_from_the_seed(
    mount: Mount, bert: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    heads = []
    for seed in (0, 0, 1):
        flags = {"seed": seed, "max_steps": 1, "overwrite_output_dir": True, "eval_on_start": False}
        run = run_job(clf(bert, learning_rate=1e-12, **flags), mount)
        heads.append(load_file(run / "checkpoint-1" / "model.safetensors")["classifier.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2], atol=1e-3)
    shown = [r.getMessage() for r in caplog.records if "classification head" in r.getMessage()]
    assert shown[0].startswith("classification head: new, drawn from seed 0: classifier.")
    # Its own checkpoint has the head.
    loaded = load_model(run / "checkpoint-1")
    assert torch.equal(loaded.classifier.weight, heads[2])


def test_scores_of_a_new_head_are_warned_of(
    mount: Mount, bert: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_job(clf(bert, no_train=True), mount)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"][:1] == [
        "the classification head is new, so the scores are random. Hint: train the model, or "
        "evaluate one whose head is trained"
    ]


def test_prompt_and_completion_share_the_model_s_positions(mount: Mount, gpt: str) -> None:
    with pytest.raises(BadInput) as raised:
        run_job(seq2seq(gpt, max_source_length=400, max_steps=1), mount)
    assert str(raised.value) == (
        "--max_source_length: 400 (expected at most 256, as prompt and completion share the "
        "model's 512 positions). Hint: add --max_source_length 256, or reduce "
        "--max_target_length, which is 256."
    )


def test_an_encoder_writes_no_texts(mount: Mount, bert: str) -> None:
    with pytest.raises(BadInput) as raised:
        run_job(seq2seq(bert, max_steps=1), mount)
    assert str(raised.value) == (
        f"{mount.models / bert / 'config.json'}: the model type bert, an encoder, which writes no "
        "texts (expected a model that generates). Hint: use it with clf.py, or choose an "
        "encoder-decoder or a decoder-only model."
    )
    assert not (mount.models / "bert_sums_0").exists()


def test_layers_that_transformers_cannot_recompute_are_not_recomputed(
    mount: Mount, bert: str
) -> None:
    path = mount.models / bert / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "albert"}
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput) as raised:
        run_job(clf(bert, gradient_checkpointing=True), mount)
    assert str(raised.value) == (
        "--gradient_checkpointing: set for the model type albert (expected a model type whose "
        "layers transformers can recompute). Hint: remove it."
    )


def test_label_words_have_the_form_that_each_prompt_asks_for(
    mount: Mount, gpt: str, bert: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    texts = ["is it?", "is it?\n", "add one", "yes:\t", "no? ", "is"]
    records = [{"input": text, "target": len(text) % 2} for text in texts * 3]
    write_data(mount, "scores", records, records[:6])
    run = run_job(clf(gpt, max_steps=10, eval_steps=10, micro_batch_tokens=20), mount)
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    forms = [tokenizer.convert_tokens_to_ids(form) for form in (["Ġno", "Ġyes"], ["no", "yes"])]
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint-10").eval()
    wanted = []
    for item, text in zip(json.loads((run / "preds.json").read_text()), texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = logits_of(model, ids)[-1, forms[text[-1].isspace()]]
        assert item["logits"] == pytest.approx(logits.tolist(), abs=1e-5)
        target = item["orig_d"]["target"]
        wanted.append(float(-logits.log_softmax(-1)[target]))
    assert lines_of(run)[-1]["loss"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    (no, yes), (plain_no, plain_yes) = forms
    assert (
        f"score: probability of yes ({yes}) against no ({no}) (after whitespace: yes ({plain_yes}) "
        f"against no ({plain_no})) as the first output token"
    ) in caplog.text


def test_label_words_follow_the_input_of_a_decoder_only_model(
    mount: Mount, gpt: str, bert: str
) -> None:
    flags = {"template": "{input} is it?", "max_steps": 30, "eval_steps": 30}
    run = run_job(clf(gpt, **flags), mount)
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint-30").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "checkpoint-30")
    words = [tokenizer(f" {word}")["input_ids"][0] for word in ("no", "yes")]
    for item in json.loads((run / "preds.json").read_text()):
        ids = tokenizer(f"{item['orig_d']['input']} is it?", return_tensors="pt")["input_ids"]
        assert item["logits"] == pytest.approx(logits_of(model, ids)[-1, words].tolist(), abs=1e-5)
    name = f"{run.name}/checkpoint-30"
    again = run_job(clf(name, no_train=True, learning_rate=None), mount)
    assert lines_of(again)[0]["loss"] == pytest.approx(lines_of(run)[-1]["loss"], rel=1e-6)
    with pytest.raises(BadInput) as raised:
        run_job(clf(name, no_train=True, template="Is it? {input}"), mount)
    assert str(raised.value) == (
        "--template: 'Is it? {input}' (expected '{input} is it?', with which the model was "
        "trained). Hint: remove --template."
    )


@pytest.mark.parametrize("kind", ["opt", "llama", "gemma3_text"])
def test_other_types_train(mount: Mount, kind: str) -> None:
    make_one_stack(kind, mount.models / kind)
    run = run_job(
        seq2seq(kind, max_steps=8, max_source_length=64, max_target_length=32, dropout_rate=None),
        mount,
    )
    losses = [line["loss"] for line in lines_of(run)]
    assert losses[-1] < losses[0]
    saved = json.loads((run / "checkpoint-8" / "config.json").read_text())
    if kind != "opt":  # transformers 4 reads it there
        rope = saved["rope_parameters"]
        assert saved["rope_theta"] == rope.get("full_attention", rope)["rope_theta"]
