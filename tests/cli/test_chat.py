"""`python3 -m workflow chat`: a line, an answer."""

import io
import json
import shutil

import pytest
from conftest import BERT_TINY, GPT_TINY, T5_TINY
from transformers import AutoTokenizer

from workflow.cli.main import main
from workflow.runs.mount import Mount

TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def chat(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    lines: str, model: str,
) -> list[str]:  # fmt: skip
    """What a conversation prints."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    words = ["chat", model, "--mount", str(mount.root), "--max_tokens", "6", "--fp32"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out.splitlines()


def test_lines_are_prompts_of_their_own(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount.models / "t5").symlink_to(T5_TINY)
    lines = "add one: 4\nadd one: 7\nadd one: 4\n"
    first, _, third = chat(mount, capsys, monkeypatch, lines, "t5")
    assert first == third
    assert chat(mount, capsys, monkeypatch, "add one: 4\n\nadd one: 7\n", "t5") == [first]


def test_turns_of_a_chat_are_remembered_until_another_begins(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(GPT_TINY, mount.models / "gpt")
    tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(mount.models / "gpt")
    seen = chat(mount, capsys, monkeypatch, "a\nb\n/new\na\nb\n/new\nb\n", "gpt")
    assert seen[:2] == seen[2:4]
    assert seen[4] != seen[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("word " * 3000 + "\na\n"))
    assert main(["chat", "gpt", "--mount", str(mount.root), "--max_tokens", "6", "--fp32"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == seen[:1]
    assert said.err.splitlines()[-1].endswith(
        " tokens). Hint: begin another conversation, or write less."
    )


def test_a_scoring_model_scores_lines(
    mount: Mount, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount.models / "bert").symlink_to(BERT_TINY)
    one, other = chat(mount, capsys, monkeypatch, "is it so?\nis it?\n", "bert")
    assert 0 <= json.loads(one)["pred_score"] <= 1
    assert one != other
