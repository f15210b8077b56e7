"""Instructions and chats become the ids of their templates, and every answer is learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GPT_TINY, T5_TINY, make_mount, write_data
from transformers import AutoTokenizer

from workflow import make_job
from workflow.config.templates import ALPACA, CHAT
from workflow.core.errors import BadInput
from workflow.data.shapes.texts import Chat, Chats, Instruction
from workflow.data.text_format import render
from workflow.training.prepare import Job, prepare

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n{}\n"
    "\n### Input:\n{}\n\n### Response:"
)
"""prompt_input of Stanford Alpaca's train.py."""
TURNS = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat(*contents: str, system: bool = False) -> dict[str, Any]:
    roles = ["system"] * system + ["user", "assistant"] * 9
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


CHATS = [
    chat("hello there", "general"),
    chat("be short", "one and one", "two", "and one", "three", system=True),
    chat("a", "b", "c {x}\n\nd", "e", "f", "g"),
]


def chatting(folder: Path) -> Path:
    """gpt-tiny with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    tokenizer.chat_template = TURNS
    folder.mkdir()
    for file in GPT_TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(folder)
    return folder


def job_of(folder: Path, model: Path, records: list[Any], **flags: Any) -> Job:
    mount = make_mount(folder)
    (mount.models / "m").symlink_to(model)
    write_data(mount, "data", records, records)
    request = make_job("seq2seq", model_init_name="m", data_name="data", max_steps=1, **flags)
    return prepare(request, mount)


def rows(job: Job, split: str = "train") -> list[tuple[list[int], list[int]]]:
    examples = job.examples[split]
    return [
        (examples.sources[i].tolist(), examples.targets[i].tolist()) for i in range(len(examples))
    ]


def test_the_alpaca_text_is_the_published_one_byte_for_byte() -> None:
    assert render(None, ALPACA, Instruction("do {it}", "now {input}")) == WITH_INPUT.format(
        "do {it}", "now {input}"
    )
    assert render(None, ALPACA, Instruction("do it", "")) == ALPACA.replace("{input}", "do it")
    assert render(None, "{input}!", Instruction("do it", "now")) == "do it\n\nnow!"


def test_instructions_are_read_as_alpaca_by_decoder_only_models_and_plainly_by_others(
    tmp_path: Path,
) -> None:
    records = [
        {"instruction": "say it", "input": "loud", "output": "it"},
        {"instruction": "say it", "input": "", "output": "that"},
        {"instruction": "say it", "output": "so"},
    ]
    job = job_of(tmp_path / "gpt", GPT_TINY, records)
    tokenizer = job.tokenizer
    texts = [WITH_INPUT.format("say it", "loud"), *[ALPACA.replace("{input}", "say it")] * 2]
    for (source, target), text, record in zip(rows(job), texts, records, strict=True):
        assert tokenizer.decode(source) == text
        assert tokenizer.decode(target) == f"{record['output']}{tokenizer.eos_token}"
    job = job_of(tmp_path / "t5", T5_TINY, records)
    found = [job.tokenizer.decode(source, skip_special_tokens=True) for source, _ in rows(job)]
    assert found == ["say it loud", "say it", "say it"]


def test_the_last_message_is_learned_behind_the_template_s_own_text(tmp_path: Path) -> None:
    job = job_of(tmp_path / "run", chatting(tmp_path / "chatty"), CHATS)
    assert job.spec.template == CHAT
    for (source, target), record in zip(rows(job), CHATS, strict=True):
        whole = job.tokenizer.apply_chat_template(record["messages"], tokenize=False)
        assert job.tokenizer.decode(source + target) == whole
        assert job.tokenizer.decode(target) == f"{record['messages'][-1]['content']}<|endoftext|>"


def test_every_message_of_the_assistant_is_learned_where_asked_for(tmp_path: Path) -> None:
    model = chatting(tmp_path / "chatty")
    job = job_of(tmp_path / "run", model, CHATS, train_on="all_turns")
    found = iter(rows(job))
    for record in CHATS:
        messages = record["messages"]
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                source, target = next(found)
                text = job.tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
                assert job.tokenizer.decode(source + target) == text
                assert job.tokenizer.decode(target) == f"{message['content']}<|endoftext|>"
    assert next(found, None) is None
    lengths = job.examples["train"]
    made = [[len(row) for row in one] for one in rows(job)]
    assert np.stack([lengths.sources.lengths, lengths.targets.lengths], 1).tolist() == made
    last = job_of(tmp_path / "last", model, CHATS)
    assert rows(job, "eval") == rows(last, "eval") == rows(last)


def test_answers_that_are_missing_have_no_target(tmp_path: Path) -> None:
    shape = Chats()
    record = {"messages": CHATS[1]["messages"][:-1]}
    assert shape.answer(record) is None
    assert str(shape.prompt(record)).endswith("user: and one")
    assert isinstance(shape.prompt(record), Chat)
    with pytest.raises(BadInput, match="a last message of the assistant"):
        job_of(tmp_path, chatting(tmp_path / "chatty"), [record])


def test_a_model_without_a_chat_template_refuses_messages(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the model's chat template"):
        job_of(tmp_path, GPT_TINY, CHATS)


@pytest.mark.parametrize("train_on", ["last_turn", "all_turns"])
def test_a_chat_is_trained_on_and_evaluated(tmp_path: Path, train_on: str) -> None:
    from workflow import run_job

    mount = make_mount(tmp_path / "run")
    (mount.models / "m").symlink_to(chatting(tmp_path / "chatty"))
    write_data(mount, "data", CHATS, CHATS)
    flags = {"max_steps": 2, "bf16": False, "train_on": train_on, "max_new_tokens": 3}
    run = run_job(make_job("seq2seq", model_init_name="m", data_name="data", **flags), mount)
    (path,) = run.glob("temperature=0.00_n=1_step=2.json")
    items = json.loads(path.read_text())
    assert [item["orig_d"] for item in items] == CHATS
    assert [item["demonstration"] for item in items] == ["general", "three", "g"]
    assert items[0]["prompt"] == "user: hello there"


def test_a_real_chat_template_masks_all_but_the_answers(tmp_path: Path, smollm2: Path) -> None:
    """Read and learned text of each turn are the template's own, byte for byte."""
    job = job_of(tmp_path, smollm2, CHATS, train_on="all_turns", bf16=False)
    found = iter(rows(job))
    for record in CHATS:
        messages = record["messages"]
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                source, target = map(job.tokenizer.decode, next(found))
                whole = job.tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
                assert source + target == whole.removesuffix("\n")
                assert source.endswith("<|im_start|>assistant\n")
                assert target == f"{message['content']}<|im_end|>"
    assert next(found, None) is None
