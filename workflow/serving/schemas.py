"""Requests as OpenAI's API has them, and our own; unknown keys are ignored, as there."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workflow.data.shapes.texts import Chat, Instruction, Prompt

MOST_CHOICES = 16
_Stop = Annotated[str, Field(max_length=256)]
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class Asked(BaseModel):
    """What all requests for texts have.

    Attributes:
        model: must be the served one, if given.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    seed: int | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    logit_bias: dict[str, _Bias] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """Null means that nothing is said, as in OpenAI's API."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}

    @property
    def count(self) -> int:
        """The number of texts to write for each prompt."""
        return 1

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of a text, if given."""
        return self.max_tokens

    @property
    def most_logprobs(self) -> int | None:
        """How many of the most likely tokens' log probabilities are needed; None for none."""
        return None

    @property
    def reads_prompt(self) -> bool:
        """Whether the log probabilities of the prompt's tokens are needed."""
        return False

    @property
    def stops(self) -> tuple[str, ...]:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)


class StreamOptions(BaseModel):
    include_usage: bool = False


class TextRequest(Asked):
    """What OpenAI's requests for texts have."""

    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def count(self) -> int:
        return self.n

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the tokens that were used."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(TextRequest):
    """`POST /v1/completions`."""

    prompt: str | Annotated[list[str] | list[int] | list[list[int]], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=0)
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False

    @property
    def prompts(self) -> list[Any]:
        """Texts, or lists of ids."""
        is_one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if is_one else list(self.prompt)

    @property
    def count(self) -> int:
        return max(self.n, self.best_of or 1)

    @property
    def most_logprobs(self) -> int | None:
        ranked = self.count > self.n
        return 0 if ranked and self.logprobs is None else self.logprobs

    @property
    def reads_prompt(self) -> bool:
        return self.echo and self.logprobs is not None


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        parts = self.content or ""
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class ChatRequest(TextRequest):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def most_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def prompt(self) -> Prompt:
        roles = {"developer": "system"}
        return Chat(
            tuple({"role": roles.get(m.role, m.role), "content": m.text} for m in self.messages)
        )


class PredictRequest(Asked):
    """`POST /predict`: a prompt, or an instruction with its input."""

    prompt: str | None = None
    instruction: str | None = None
    input: str = ""
    temperature: float = Field(0.0, ge=0, le=2, allow_inf_nan=False)

    def asked(self) -> Prompt:
        """The prompt.

        Raises:
            ValueError: neither or both are given.
        """
        if (self.prompt is None) == (self.instruction is None):
            raise ValueError("give either prompt or instruction")
        if self.instruction is not None:
            return Instruction(self.instruction, self.input)
        assert self.prompt is not None
        return self.prompt


class ScoreRequest(BaseModel):
    """`POST /score`: records as in a data file, e.g. {"input": …}."""

    model: str | None = None
    records: list[dict[str, Any]] = Field(min_length=1, max_length=256)
