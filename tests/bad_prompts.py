"""Bad instructions and chats; tests/golden/bad_input.txt has the message of each."""

from typing import Any

from bad_inputs import BadInput

INSTRUCTION = {"instruction": "say it", "input": "loud", "output": "it"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
COMPLETION = {"prompt": "a", "completion": "b"}


def _of(name: str, record: dict[str, Any], good: dict[str, Any], *extra: str) -> BadInput:
    """Data whose second train record is `record`."""
    return BadInput(name, {"train": [good, record, good], "eval": [good]}, extra=extra)


def _chat(name: str, *messages: object) -> BadInput:
    return _of(name, {"messages": list(messages)}, CHAT)


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
    _chat("no messages"),
    _chat("only an answer", {"role": "assistant", "content": "b"}),
    _chat("a chat without an answer", USER),
    _chat("a message that is a text", USER, "b"),
    _chat("an unknown role", USER, {"role": "bot", "content": "b"}),
    _chat("a message without content", USER, {"role": "assistant", "content": None}),
]
