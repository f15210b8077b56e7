"""Bad instructions and chats; tests/golden/bad_input.txt has the message of each."""

from typing import Any

from bad_inputs import BadInput

from workflow.runs.mount import Mount

INSTRUCTION = {"instruction": "say it", "input": "loud", "output": "it"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
COMPLETION = {"prompt": "a", "completion": "b"}


def _of(name: str, record: dict[str, Any], good: dict[str, Any], *extra: str) -> BadInput:
    """Data whose second train record is `record`."""
    return BadInput(name, {"train": [good, record, good], "eval": [good]}, extra=extra)


def _chat(name: str, *messages: object) -> BadInput:
    return _of(name, {"messages": list(messages)}, CHAT)


def _text_file(name: str, content: bytes, *extra: str) -> BadInput:
    """Data that is a folder of text files."""

    def prepare(mount: Mount) -> None:
        (mount.data / "bad").mkdir()
        (mount.data / "bad" / "train.txt").write_bytes(content)
        (mount.data / "bad" / "eval.txt").write_bytes(b"one\n\ntwo\n")

    return BadInput(name, prepare=prepare, extra=extra)


TEXT = {"text": "a b c"}
USER = {"role": "user", "content": "a"}
BAD_PROMPTS = [
    _of("an input that is a number", INSTRUCTION | {"input": 5}, INSTRUCTION),
    _of("an instruction without output", {"instruction": "say it"}, INSTRUCTION),
    _of("a completion among instructions", COMPLETION, INSTRUCTION),
    _of("an instruction among completions", INSTRUCTION, COMPLETION),
    _of("a chat among completions", CHAT, COMPLETION),
    _of("messages that are a text", {"messages": "a"}, CHAT),
    _of("all turns of records without turns", COMPLETION, COMPLETION, "--train_on", "all_turns"),
    _of("a chat for a model without a chat template", CHAT, CHAT),
    _of("a completion among texts", COMPLETION, TEXT),
    _of("a text among completions", TEXT, COMPLETION),
    _of("a text that is a list", {"text": ["a"]}, TEXT),
    _of("texts without a text", {"text": " "}, {"text": ""}),
    _of("flags of prompts for texts", TEXT, TEXT, "--template", "{input}!"),
    _of("flags of texts for prompts", COMPLETION, COMPLETION, "--block_packing", "false"),
    _of("a metric of completions", TEXT, TEXT, "--metric_for_best_model", "rougeL"),
    _of("a metric of texts", COMPLETION, COMPLETION, "--metric_for_best_model", "byte_perplexity"),
    _of("new weights to evaluate", TEXT, TEXT, "--init", "random", "--no_train"),
    _text_file("an empty text file", b" \n\n"),
    _text_file("a text file in another encoding", "caf\u00e9\n".encode("latin-1")),
    _text_file("a text file that is compressed", b"\x1f\x8b\x08\0\0"),
    _text_file("a text file with NUL bytes", b"a\0b\n\nc\n"),
    BadInput(
        "a single text file",
        prepare=lambda mount: (mount.data / "bad.txt").write_text("one\n\ntwo\n") and None,
    ),
    BadInput(
        "a text file for clf.py",
        prepare=lambda mount: (mount.data / "bad.txt").write_text("one\n\ntwo\n") and None,
        task="clf",
    ),
    _chat("no messages"),
    _chat("only an answer", {"role": "assistant", "content": "b"}),
    _chat("a chat without an answer", USER),
    _chat("a message that is a text", USER, "b"),
    _chat("an unknown role", USER, {"role": "bot", "content": "b"}),
    _chat("a message without content", USER, {"role": "assistant", "content": None}),
]
