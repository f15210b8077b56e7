"""Records to complete: a prompt with its completion, an instruction, or a chat."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from workflow.core.errors import shorten
from workflow.data.records import Record, Wrong, name_type
from workflow.data.shapes.base import Shape

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


class TextShape(Shape):
    """The shape of records with a prompt to complete."""

    def prompt(self, record: Record) -> Prompt:
        """The prompt of a valid record."""
        return self.text(record)

    def answer(self, record: Record) -> str | None:
        """The completion; of an eval record with several references the first."""
        return next(iter(self.references(record)), None)

    def references(self, record: Record) -> tuple[str, ...]:
        """All that a prediction may equal; () if the record has no answer."""
        answer = record.get(str(self.answer_key))
        if isinstance(answer, list):
            return tuple(answer)
        return () if answer is None else (answer,)


class Completions(TextShape):
    """A prompt and its completion."""

    name, source_keys, answer_key = "completion", ("prompt",), "completion"
    marks = ("prompt",)


class Instructions(TextShape):
    """An instruction, the input that it is about, which may be missing, and the output."""

    name, source_keys, answer_key = "instruction", ("instruction",), "output"
    marks = ("instruction",)

    @property
    def example(self) -> str:
        return '{"instruction": …, "input": …, "output": …}'

    def prompt(self, record: Record) -> Instruction:
        return Instruction(record["instruction"], record.get("input") or "")

    def text(self, record: Record) -> str:
        return str(self.prompt(record))

    def reads(self, record: Record) -> tuple[str, ...]:
        return (self.prompt(record).text,)

    def check(self, record: Record, answer_needed: bool) -> list[Wrong]:
        beside = record.get("input")
        if beside is None or isinstance(beside, str):
            return []
        return [("input", name_type(beside), "text", "write it as a string, or remove the key")]


class Chats(TextShape):
    """Messages of several roles; the last one of the assistant is the completion."""

    name, source_keys, answer_key = "chat", (), None
    marks = ("messages",)

    @property
    def example(self) -> str:
        return '{"messages": [{"role": "user", "content": …}, …]}'

    def prompt(self, record: Record) -> Chat:
        messages = record["messages"]
        return _chat(messages[:-1] if _is_answered(messages) else messages)

    def text(self, record: Record) -> str:
        return str(self.prompt(record))

    def reads(self, record: Record) -> tuple[str, ...]:
        return (self.prompt(record).messages[-1]["content"],)

    def references(self, record: Record) -> tuple[str, ...]:
        messages = record["messages"]
        return (str(messages[-1]["content"]),) if _is_answered(messages) else ()

    def turns(self, record: Record) -> list[tuple[Chat, str]]:
        """Each message of the assistant, with those before it."""
        messages = record["messages"]
        return [
            (_chat(messages[:number]), one["content"])
            for number, one in enumerate(messages)
            if number and one["role"] == "assistant"
        ]

    def check(self, record: Record, answer_needed: bool) -> list[Wrong]:
        return _wrong_in_chat(record.get("messages"), answer_needed)


class Documents(Shape):
    """A text to learn as it is."""

    name, source_keys, answer_key = "text", ("text",), None
    marks = ("text",)

    def reads(self, record: Record) -> tuple[str, ...]:
        return ()

    def answer(self, record: Record) -> Any:
        return record.get("text")


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
