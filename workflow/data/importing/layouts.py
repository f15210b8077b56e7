"""Raw records of known layouts, or with named fields, to records of a data file."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from workflow.core.console import log
from workflow.core.errors import shorten
from workflow.data.importing.read import problem
from workflow.data.records import Record
from workflow.data.schema import check_record
from workflow.data.shapes.base import Shape
from workflow.data.shapes.classes import Labels, Pairs, Preferences
from workflow.data.shapes.targets import Targets
from workflow.data.shapes.texts import Chats, Completions, Documents, Instructions

SHAPES: dict[tuple[str, ...], Shape] = {
    shape.keys or shape.marks: shape
    for shape in (
        Pairs(), Preferences(), Completions(), Instructions(), Chats(), Labels(),
        Targets(-math.inf, math.inf), Documents(),
    )
}  # fmt: skip
"""The keys that a record of each shape has, the answer last."""
_MARK, _STOP = "\n\n###\n\n", re.compile(r"(\n| END|\s*###)$")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
_WINNERS = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}
FIELD = re.compile(r"\{([^\s{}]+)\}")
Source = str | Callable[[Record], Any]
"""Where a value is found: a dotted path, a template with such paths in braces, or a function."""
Sources = Mapping[str, Source]


class Unfit(Exception):
    """Why a record is dropped."""


def find(record: Record, source: Source) -> Any:
    """A value of a record; a path goes through keys and list indexes, or is a key with dots."""
    if callable(source):
        return source(record)
    if "{" in source:
        return FIELD.sub(lambda field: text_at(record, field[1]), source)
    value: Any = record
    for name in [source] if isinstance(record, dict) and source in record else source.split("."):
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        raise Unfit(f"no {source}")
    return value


def text_at(record: Record, path: str) -> str:
    """The text of a value that is a string, a number or a boolean."""
    if not isinstance(value := find(record, path), str | int | float):
        raise Unfit(f"{path} is not a string")
    return value if isinstance(value, str) else json.dumps(value)


def _messages(record: Record) -> Any:
    """The messages of a chat up to the last one of the assistant, if there is one."""
    said = find(record, "messages")
    if not isinstance(said, list):
        return said
    roles = [one.get("role") if isinstance(one, dict) else None for one in said]
    end = len(roles) - roles[::-1].index("assistant") if "assistant" in roles else None
    return said[:end]


def _conversation(record: Record) -> Any:
    turns = find(record, "conversations")
    said = []
    for index in range(len(turns) if type(turns) is list else 0):
        role, text = (text_at(record, f"conversations.{index}.{key}") for key in ("from", "value"))
        said.append({"role": _ROLES.get(role, role), "content": text})
    return _messages({"messages": said})


def _side(key: str) -> Source:
    def text(record: Record) -> Any:
        value = find(record, key)
        with suppress(ValueError):
            value = json.loads(value) if isinstance(value, str) and value[:1] == "[" else value
        return "\n\n".join(str(turn or "") for turn in value) if type(value) is list else value

    return text


def _first_answer(record: Record) -> Any:
    found = find(record, "answers.text")
    return (found or [""])[0] if isinstance(found, list) else found


def _winner(record: Record) -> str:
    won = [
        name
        for key, name in _WINNERS.items()
        if text_at(record, key) in ("1", "1.0", "true", "True")
    ]
    if len(won) != 1:
        raise Unfit("not one winner")
    return won[0]


def _layouts(first: Record) -> Iterator[tuple[str, str, Sources, str]]:
    """The name, keys, sources and a note of each layout, as a first record may have it."""
    arena: Sources = {key: _side(key) for key in ("prompt", "response_a", "response_b")}
    keys, note = " ".join([*arena, *_WINNERS]), "several turns of a side joined by empty lines"
    yield "Chatbot Arena", keys, {**arena, "label": _winner}, note
    if str(first.get("prompt")).endswith(_MARK):
        marked: Sources = {
            "prompt": lambda record: text_at(record, "prompt").removesuffix(_MARK),
            "completion": lambda record: _STOP.sub("", text_at(record, "completion")).lstrip(" "),
        }
        note = r"without the separator \n\n###\n\n, the space before and the stop (\n, END, ###)"
        yield "OpenAI completions", "prompt completion", marked, note
    alpaca = "instruction [input] output"
    yield "Alpaca", alpaca, {key: key for key in ("instruction", "input", "output")}, ""
    for shape in SHAPES:
        if shape not in (("messages",), ("text",)):
            yield "a data file's", " ".join(shape), {key: key for key in shape}, ""
    note = "messages after the last one of the assistant are not imported"
    yield "OpenAI chat", "messages", {"messages": _messages}, note
    yield "ShareGPT", "conversations", {"messages": _conversation}, note
    makes: Sources = {"prompt": "{context}\n\n{question}", "completion": _first_answer}
    note = "the first of several answers, or an empty one"
    yield "SQuAD", "context question answers", makes, note
    yield "SAMSum", "dialogue summary", {"prompt": "dialogue", "completion": "summary"}, ""
    if isinstance(pair := first.get("translation"), dict) and len(pair) == 2:
        a, b = pair
        makes = {"prompt": f"translation.{a}", "completion": f"translation.{b}"}
        yield "translation", "translation", makes, f"from {a} to {b}"
    yield "classes", "text label", {"input": "text", "label": "label"}, ""
    yield "questions", "question answer", {"prompt": "question", "completion": "answer"}, ""
    yield "texts", "text", {"text": "text"}, ""


class Plan(NamedTuple):
    """Where each value of a record is found, the keys that no record may lack, and their check."""

    sources: Sources
    keys: tuple[str, ...]
    shape: Shape

    @classmethod
    def of(cls, sources: Sources, keys: tuple[str, ...]) -> "Plan":
        return cls(sources, keys, SHAPES[keys])

    def convert(self, record: Record) -> Record:
        """Make a record.

        Raises:
            Unfit: with the reason.
        """
        made: Record = {}
        for key, source in self.sources.items():
            with suppress(*() if key in self.keys else (Unfit,)):
                made[key] = find(record, source)
        last = self.keys[-1]
        if last == "label" and isinstance(made[last], int):
            made[last] = json.dumps(made[last])
        if last == "target" and isinstance(made[last], str | bool):
            with suppress(ValueError):
                made[last] = float(made[last])
        for wrong in check_record(made, "", self.shape, True):
            raise Unfit(f"{wrong.where[1:]}: " + re.split(r" (?=\W|\d)", wrong.found)[0])
        for key in {"prompt", "instruction", "input", "text"} & {*self.keys}:
            if not made[key].strip():
                raise Unfit(f"an empty {key}")
        return made


def make_plan(record: Record, where: object, maps: Mapping[str, str], template: str | None) -> Plan:
    """How records like this one are converted, which is logged.

    Raises:
        BadInput: neither its keys nor the flags say it.
    """
    key = "input" if maps.keys() & {"label", "target"} and "response_a" not in maps else "prompt"
    sources: dict[str, Source] = {**maps, **({key: template} if template else {})}
    paths = [*maps.values(), *FIELD.findall(template or "")]
    used = {part for path in paths for part in (path, path.split(".")[0])}
    for name, words, makes, note in () if _keys_of(sources) else _layouts(record):
        if {word for word in words.split() if word[0] != "["} <= record.keys():
            if template and makes.keys() & {"label", "target"} and "input" in makes:
                sources["input"] = sources.pop("prompt", template)
            sources = {**makes, **sources}
            used |= {word.strip("[]") for word in words.split()}
            shown = words.replace(" ", ", ") + f"; {note}" * bool(note)
            log.info("layout: %s (%s)", name, shown)
            break
    if not (keys := _keys_of(sources)):
        a, b, *_ = [*record, "FIELD", "FIELD"]
        found = f"the keys {', '.join(map(shorten, list(record)[:12])) or 'none'}"
        hint = f"name the fields, for example --map prompt={a} --map completion={b}"
        raise problem(where, found, "the keys of a known layout, or --map", hint)
    if "prompt" in sources.keys() - {*keys}:
        found, hint = f"a prompt beside {', '.join(keys)}", "add --map completion=PATH"
        where = "--template" if template else "--map prompt"
        raise problem(where, found, "the prompt of a completion", hint)
    for key, source in {**maps, **({"template": template} if template else {})}.items():
        log.info("%s: from %s", key, shorten(source))
    if unused := [name for name in record if name not in used]:
        log.info("not imported: %s; --map %s=%s imports one",
                 ", ".join(map(shorten, unused)), unused[0], unused[0])  # fmt: skip
    return Plan.of(sources, keys)


def _keys_of(sources: Sources) -> tuple[str, ...]:
    return next((keys for keys in SHAPES if {*keys} <= sources.keys()), ())
