"""Which of a model's own generation settings are part of the model, and which are taste."""

from typing import Any

from transformers import GenerationConfig

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_TOKENS = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Without these a model writes what it was never meant to, as Marian its padding."""
_NO_MATTER = (
    "transformers_version", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "compile_config", "disable_compile", "low_memory",
    "continuous_batching_config", "is_assistant",
)  # fmt: skip
"""What changes no text."""


def kept_settings(own: GenerationConfig) -> dict[str, Any]:
    """What every generation of a model keeps of its own settings."""
    named = {name: getattr(own, name, None) for name in (*_IDS, *_TOKENS)}
    return {name: value for name, value in named.items() if value is not None}


def restricted(own: GenerationConfig) -> list[str]:
    """The settings by which some tokens are forced or must not be written."""
    return [name for name in _TOKENS if getattr(own, name, None) is not None]


def describe_settings(own: GenerationConfig) -> str | None:
    """In a line, what is kept and what the job's flags decide instead; None for ids alone."""
    given = own.to_diff_dict()
    aside = [
        f"{name} {value}"
        for name, value in sorted(given.items())
        if name not in (*_IDS, *_TOKENS, *_NO_MATTER)
        and not name.startswith("_")
        and value is not None
    ]
    kept = restricted(own)
    parts = [f"keeps {', '.join(kept)}"] if kept else []
    parts += [f"sets aside {', '.join(aside)} (the flags of the job decide)"] if aside else []
    return f"of the model's own generation settings the job {'; '.join(parts)}" if parts else None
