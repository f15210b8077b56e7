"""Replace a tokenizer's backend and keep its settings and special tokens.

The classes of transformers for mBART or NLLB add the source language's token to sources, and the
target language's to targets. Here these tokens are stored in the tokenizer's settings.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_SETTINGS = (
    "model_max_length", "padding_side", "truncation_side", "model_input_names", "add_prefix_space",
    "split_special_tokens", "chat_template", "response_template", "chat_control_tokens",
    "extra_special_tokens",
)  # fmt: skip
"""Without clean_up_tokenization_spaces, which removes spaces from decoded texts."""
_NAMED = PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES
_LANGUAGE = "{language}"


class TwoSidedTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that adds different special tokens to sources and targets.

    The tokens are in its settings, and it is saved as a PreTrainedTokenizerFast. Transformers loads
    that without this class, but then treats every text as a source.
    """

    def _post_init(self) -> None:
        super()._post_init()
        self._switch_to_input_mode()

    def _switch_to_input_mode(self) -> None:
        self._put_around("around_source", self.src_lang)

    def _switch_to_target_mode(self) -> None:
        self._put_around("around_target", self.tgt_lang or self.src_lang)

    def _put_around(self, side: str, language: str | None) -> None:
        before, after = (
            [str(language) if token == _LANGUAGE else token for token in tokens]
            for tokens in self.init_kwargs[side]
        )
        names = dict.fromkeys(before + after)
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", "$B", *after],
            special_tokens=[(name, self.convert_tokens_to_ids(name)) for name in names],
        )

    @property
    def src_lang(self) -> str | None:
        language: str | None = self.init_kwargs.get("src_lang")
        return language

    @src_lang.setter
    def src_lang(self, language: str | None) -> None:
        self.init_kwargs["src_lang"] = language
        self._switch_to_input_mode()

    @property
    def tgt_lang(self) -> str | None:
        language: str | None = self.init_kwargs.get("tgt_lang")
        return language

    @tgt_lang.setter
    def tgt_lang(self, language: str | None) -> None:
        self.init_kwargs["tgt_lang"] = language


def is_two_sided(folder: Path) -> bool:
    """Whether the tokenizer of a folder was saved by `TwoSidedTokenizer`."""
    try:
        return "around_target" in json.loads((folder / "tokenizer_config.json").read_text())
    except (OSError, ValueError):
        return False


def rewrap(tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer with the settings of `tokenizer` and with `backend` instead of its own."""
    kept = {name: getattr(tokenizer, name, None) for name in _SETTINGS}
    special = tokenizer._special_tokens_map
    kept |= {name: special[name] for name in _NAMED}
    kept["model_specific_special_tokens"] = {
        name: token for name, token in special.items() if name not in _NAMED
    }
    kept = {name: value for name, value in kept.items() if value not in (None, {})}
    languages = [getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang")]
    source = _around(tokenizer, "text", languages[0])
    target = _around(tokenizer, "text_target", languages[1] or languages[0])
    if source == target and languages == [None, None]:
        return PreTrainedTokenizerFast(tokenizer_object=backend, **kept)
    kept |= {"src_lang": languages[0], "tgt_lang": languages[1]}
    kept |= {"around_source": source, "around_target": target}
    return TwoSidedTokenizer(tokenizer_object=backend, **kept)


def _around(tokenizer: PreTrainedTokenizerBase, side: str, language: str | None) -> list[list[str]]:
    """The special tokens that are added before and after a text."""
    ids = tokenizer(**{side: "a"})["input_ids"]
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = range(len(ids) - len(alone) + 1)
    start = next(i for i in starts if ids[i : i + len(alone)] == alone)
    parts = (ids[:start], ids[start + len(alone) :])
    tokens = [tokenizer.convert_ids_to_tokens(part) for part in parts]
    return [[_LANGUAGE if token == language else token for token in part] for part in tokens]
