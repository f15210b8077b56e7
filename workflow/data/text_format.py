"""How the texts of a record become token ids: read apart, or the completion behind the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError

from workflow.config.templates import ALPACA, ALPACA_WITH_INPUT, CHAT, PLAIN
from workflow.core.errors import BadInput, Problem, shorten
from workflow.data.shapes.texts import Chat, Instruction, Prompt
from workflow.data.text_ids import Frame, encode_texts, frame_of, source_ids, target_ids

_ANCHORS = ("\n", "a", ":", ".")
_MARK = "workflow's answer"
"""Stands for the answer where a chat template is tried; templates may strip spaces around it."""


class TextFormat(Protocol):
    """Converts prompts and completions to ids, alike in training and evaluation.

    Attributes:
        template: of prompts: "chat" for the tokenizer's chat template, else a text with {input}.
    """

    @property
    def template(self) -> str: ...

    @property
    def end(self) -> int | None:
        """The id of the end token that targets have, if the format chooses it."""

    @property
    def writes(self) -> bool:
        """Whether the model writes tokens; otherwise a head of its own scores."""

    @property
    def key(self) -> list[Any]:
        """What determines the ids besides tokenizer and template."""

    def sources(self, tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The ids of prompts, as the model reads them."""

    def targets(
        self, tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[list[int]]:
        """The ids that the model writes for these completions, with the end token."""

    def parts(self, tokenizer: Any, texts: Sequence[str], begins: bool = False) -> list[list[int]]:
        """The ids of texts that follow another one, or begin a text, without special tokens."""

    def around(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """The ids of what surrounds such texts, with a source's special tokens at both ends."""

    def word_ids(self, tokenizer: Any, word: str, prompt: str = "a") -> list[int]:
        """The ids of a word as the first that the model writes for a prompt."""

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        """The ids around each "source" and "target", which truncation keeps."""


@dataclass(frozen=True)
class Texts:
    """A model's tokenizer, and how its texts become ids."""

    tokenizer: Any
    format: TextFormat


@dataclass(frozen=True)
class SeparateTexts:
    """The format of models with an encoder: a text with the tokenizer's special tokens around it.

    Attributes:
        start: the id that decoding starts with; None without a decoder.
    """

    start: int | None
    template: str = PLAIN
    end = None

    @property
    def writes(self) -> bool:
        return self.start is not None

    @property
    def key(self) -> list[Any]:
        return [self.start]

    def sources(self, tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
        return source_ids(tokenizer, [render(tokenizer, self.template, one) for one in prompts])

    def targets(
        self, tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[list[int]]:
        return target_ids(tokenizer, completions, self.start)

    def parts(self, tokenizer: Any, texts: Sequence[str], begins: bool = False) -> list[list[int]]:
        return _ids(tokenizer, texts)

    def around(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        empty, one = source_ids(tokenizer, ["", "a"])
        before, _ = frame_of(empty, one)
        first, *others, last = _ids(tokenizer, texts)
        return [[*empty[:before], *first], *others, [*last, *empty[before:]]]

    def word_ids(self, tokenizer: Any, word: str, prompt: str = "a") -> list[int]:
        return _ids(tokenizer, [word])[0]

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {
            "source": frame_of(*self.sources(tokenizer, ["", "a"])),
            "target": frame_of(*target_ids(tokenizer, ["", "a"], self.start)),
        }


@dataclass(frozen=True)
class ContinuedText:
    """The format of decoder-only models: prompt, completion and end token as one text.

    The prompt is tokenized alone, as for generation; the completion as what follows it. A token
    never spans both.

    Attributes:
        spaces: whether a space separates prompt and completion, unless either has whitespace there.
        end: the id of the end token.
    """

    template: str
    spaces: bool
    end: int

    @classmethod
    def of(cls, tokenizer: Any, template: str) -> "ContinuedText":
        """The format of a template."""
        end = _chat_end(tokenizer) if template == CHAT else tokenizer.eos_token_id
        return cls(template, template not in (CHAT, ALPACA), end)

    @property
    def writes(self) -> bool:
        return True

    @property
    def key(self) -> list[Any]:
        return ["continued", self.spaces, self.end]

    def sources(self, tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts = [render(tokenizer, self.template, prompt) for prompt in prompts]
        before = self._before(tokenizer)
        rows = _ids(tokenizer, texts)
        return [before + row or [self.end] for row in rows]

    def before_text(self, tokenizer: Any) -> tuple[int, ...]:
        """The id that the first token of a text follows."""
        return tuple(self._before(tokenizer) or [self.end])

    def _before(self, tokenizer: Any) -> list[int]:
        """The ids that the tokenizer puts before every text; a chat template has its own."""
        if self.template == CHAT:
            return []
        with_special: list[int] = tokenizer("")["input_ids"]
        return [i for i in with_special[:1] if i == tokenizer.bos_token_id]

    def targets(
        self, tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> list[list[int]]:
        texts = completions
        if self.spaces:  # depends on the prompt's end
            texts = [
                self.joined(render(tokenizer, self.template, prompt), completion)
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
        return [[*row, self.end] for row in continuation_ids(tokenizer, texts)]

    def parts(self, tokenizer: Any, texts: Sequence[str], begins: bool = False) -> list[list[int]]:
        return _ids(tokenizer, texts) if begins else continuation_ids(tokenizer, texts)

    def around(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        (first,) = _ids(tokenizer, texts[:1])
        return [[*self._before(tokenizer), *first], *continuation_ids(tokenizer, texts[1:])]

    def word_ids(self, tokenizer: Any, word: str, prompt: str = "a") -> list[int]:
        rendered = render(tokenizer, self.template, prompt)
        return continuation_ids(tokenizer, [self.joined(rendered, word)])[0]

    def joined(self, prompt: str, completion: str) -> str:
        """The completion as it follows a prompt in its template."""
        touching = not prompt[-1:].isspace() and not completion[:1].isspace()
        return f" {completion}" if self.spaces and completion and touching else completion

    def frames(self, tokenizer: Any) -> dict[str, Frame]:
        return {"source": frame_of(*self.sources(tokenizer, ["", "a"])), "target": (0, 1)}


def render(tokenizer: Any, template: str, prompt: Prompt) -> str:
    """A prompt in a template: "chat" for the tokenizer's chat template, or a text with {input}.

    Raises:
        BadInput: the chat template refuses the messages.
    """
    if template == ALPACA and isinstance(prompt, Instruction) and prompt.input:
        halves = ALPACA_WITH_INPUT.partition("{instruction}")
        return halves[0] + prompt.text + halves[2].replace("{input}", prompt.input)
    if template != CHAT:
        return template.replace("{input}", str(prompt))
    messages = [{"role": "user", "content": str(prompt)}]
    if isinstance(prompt, Chat):
        messages = list(prompt.messages)
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        roles = ", ".join(one["role"] for one in messages)
        found = f"{shorten(str(prompt), 40)} with the roles {roles}: {error}"
        expected, hint = "a chat that the model's template takes", "correct the roles"
        raise BadInput([Problem("messages", found, expected, hint)]) from None
    return text


def continuation_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts that follow another text.

    A tokenizer may treat the start of a text in its own way: Llama's adds a space there. So each
    text is tokenized behind a short one that does not merge with it, whose ids are removed.
    """
    found: dict[int, list[int]] = {i: [] for i, text in enumerate(texts) if not text}
    for anchor in _ANCHORS:
        left = [i for i in range(len(texts)) if i not in found]
        if not left:
            break
        (before,) = _ids(tokenizer, [anchor])
        for i, row in zip(left, _ids(tokenizer, [anchor + texts[i] for i in left]), strict=True):
            if row[: len(before)] == before:
                found[i] = row[len(before) :]
    return [found[i] if i in found else _ids(tokenizer, [text])[0] for i, text in enumerate(texts)]


def _chat_end(tokenizer: Any) -> int:
    """The special token behind an answer in the tokenizer's chat template."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    (after,) = _ids(tokenizer, [text.rpartition(_MARK)[2]])
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    end: int = next((i for i in after if i in special), tokenizer.eos_token_id)
    return end


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of texts, without special tokens."""
    return encode_texts(tokenizer, texts, special=False)
