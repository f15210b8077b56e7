"""Split a model's own generation settings into those to keep and those that flags replace."""

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
"""Settings of the model itself; without them a model generates invalid tokens (Marian: padding)."""
_NO_MATTER = (
    "transformers_version", "use_cache", "cache_implementation", "cache_config", "max_cache_len",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "compile_config", "disable_compile", "low_memory",
    "continuous_batching_config", "is_assistant",
)  # fmt: skip
"""Settings that do not change the generated text."""


def kept_settings(own: GenerationConfig) -> dict[str, Any]:
    """The model's own settings that every generation keeps."""
    named = {name: getattr(own, name, None) for name in (*_IDS, *_TOKENS)}
    return {name: value for name, value in named.items() if value is not None}


def restricted(own: GenerationConfig) -> list[str]:
    """The names of the settings that force or forbid tokens."""
    return [name for name in _TOKENS if getattr(own, name, None) is not None]


def describe_settings(own: GenerationConfig) -> str | None:
    """One line with the settings that are kept and ignored; None if there are only ids."""
    given = own.to_diff_dict()
    ignored = [
        f"{name} {value}"
        for name, value in sorted(given.items())
        if name not in (*_IDS, *_TOKENS, *_NO_MATTER)
        and not name.startswith("_")
        and value is not None
    ]
    kept = restricted(own)
    parts = [f"keeping {', '.join(kept)}"] if kept else []
    parts += [f"ignoring {', '.join(ignored)} (the job's flags apply)"] if ignored else []
    return f"the model's generation settings: {'; '.join(parts)}" if parts else None
