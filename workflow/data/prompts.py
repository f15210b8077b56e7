"""Records to complete: a prompt with its completion, an instruction, or a chat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from workflow.core.errors import shorten
from workflow.data.schema import Record, Wrong, name_type

ROLES = ("system", "user", "assistant")


class Instruction(NamedTuple):
    """An instruction and the input that it is about, which may be empty."""

    text: str
    input: str

    def __str__(self) -> str:
        return f"{self.text}\n\n{self.input}" if self.input else self.text


class Chat(NamedTuple):
    """The messages before the one to write, each with its role and content."""

    messages: tuple[dict[str, str], ...]

    def __str__(self) -> str:
        return "\n\n".join(f"{one['role']}: {one['content']}" for one in self.messages)


Prompt = str | Instruction | Chat
"""What a template makes a text of; as a string, what is shown of it."""


@dataclass(frozen=True)
class TextShape:
    """What records to complete look like: "completion", "instruction" or "chat"."""

    name: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of texts that each record has."""
        return {"completion": ("prompt",), "instruction": ("instruction",)}.get(self.name, ())

    @property
    def answer_key(self) -> str | None:
        return {"completion": "completion", "instruction": "output"}.get(self.name)

    @property
    def example(self) -> str:
        """What a record looks like."""
        return {
            "completion": '{"prompt": …, "completion": …}',
            "instruction": '{"instruction": …, "input": …, "output": …}',
            "chat": '{"messages": [{"role": "user", "content": …}, …]}',
        }[self.name]

    def other(self, record: Record) -> str | None:
        """The example of a record that has the keys of another shape; None for one of this."""
        found = TextShape(text_shape_of(record))
        has_own = any(key in record for key in (*self.keys, "messages" * (self.name == "chat")))
        known = found.name != "completion" or "prompt" in record
        return found.example if found != self and known and not has_own else None

    def prompt(self, record: Record) -> Prompt:
        """The prompt of a valid record."""
        if self.name == "completion":
            text: str = record["prompt"]
            return text
        if self.name == "instruction":
            return Instruction(record["instruction"], record.get("input") or "")
        messages = record["messages"]
        return _chat(messages[:-1] if _is_answered(messages) else messages)

    def read(self, record: Record) -> str:
        """The part of a prompt that is in every template's text as it is."""
        prompt = self.prompt(record)
        if isinstance(prompt, Chat):
            return prompt.messages[-1]["content"]
        return prompt.text if isinstance(prompt, Instruction) else prompt

    def completion(self, record: Record) -> str | None:
        """The completion of a valid record; None if it has none."""
        if self.name == "chat":
            messages = record["messages"]
            return str(messages[-1]["content"]) if _is_answered(messages) else None
        return record.get(str(self.answer_key))

    def turns(self, record: Record) -> list[tuple[Prompt, str]]:
        """Each message of the assistant in a chat, with those before it."""
        messages = record["messages"]
        return [
            (_chat(messages[:number]), one["content"])
            for number, one in enumerate(messages)
            if number and one["role"] == "assistant"
        ]

    def check(self, record: Record, answer_needed: bool) -> list[Wrong]:
        """What is wrong with a record besides the texts under its keys."""
        if self.name == "chat":
            return _wrong_in_chat(record.get("messages"), answer_needed)
        beside = record.get("input") if self.name == "instruction" else None
        if beside is None or isinstance(beside, str):
            return []
        return [("input", name_type(beside), "text", "write it as a string, or remove the key")]


def text_shape_of(record: Record) -> str:
    """The shape of a record to complete, by its keys."""
    if "prompt" in record:
        return "completion"
    if "messages" in record:
        return "chat"
    return "instruction" if "instruction" in record else "completion"


def _chat(messages: Sequence[dict[str, Any]]) -> Chat:
    return Chat(tuple({"role": one["role"], "content": one["content"]} for one in messages))


def _is_answered(messages: Sequence[dict[str, Any]]) -> bool:
    return bool(messages[-1]["role"] == "assistant")


def _wrong_in_chat(messages: object, answer_needed: bool) -> list[Wrong]:
    expected = 'a list of {"role": …, "content": …}'
    if not isinstance(messages, list):
        found = "missing" if messages is None else name_type(messages)
        return [("messages", found, expected, "write the turns of the chat")]
    wrong: list[Wrong] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            wrong.append((place, name_type(message), expected[10:], "write an object"))
            continue
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            found = shorten(role) if isinstance(role, str) else name_type(role)
            wrong.append((f"{place}.role", found, f"one of {', '.join(ROLES)}", "correct it"))
        if not isinstance(content, str):
            wrong.append((f"{place}.content", name_type(content), "text", "write it as a string"))
    if wrong:
        return wrong
    roles = [message["role"] for message in messages]
    if not roles or (roles[-1] == "assistant" and len(roles) == 1):
        found = "an answer alone" if roles else "an empty list"
        hint = "add the message that is answered"
        return [("messages", found, "a message of the user and its answer", hint)]
    if roles[-1] != "assistant" and answer_needed:
        found, hint = f"{roles[-1]} in the last message", "add the answer, or remove the record"
        return [("messages", found, "a last message of the assistant", hint)]
    return []
