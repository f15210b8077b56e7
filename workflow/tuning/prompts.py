"""Prompt tuning and prefix tuning: virtual tokens before each source."""

import math
from typing import Any

import numpy as np
import peft
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow.core.errors import BadInput, Problem
from workflow.models.families import family_of
from workflow.models.families.decoder_only import attends_to_all
from workflow.models.kernels.prefix import PrefixAttention, can_attend_to_prefix
from workflow.models.state_dict import gathered
from workflow.tuning.adapter import Adapter, wrap_heads


class _VirtualTokens(Adapter):
    """Adapters whose virtual tokens have a name of their own in files."""

    def saved(self, model: PreTrainedModel) -> dict[str, Any]:
        prompted: Any = model
        embedding = prompted.prompt_encoder.embedding.weight
        trained = super().saved(model).items()
        return {_EMBEDDINGS: embedding} | {n: one for n, one in trained if one is not embedding}


class PromptTuning(_VirtualTokens):
    """Trained embeddings of virtual tokens (Lester et al. 2021, arXiv:2104.08691).

    Batches have negative ids for them; encoder-decoders read them in the encoder.
    """

    def _new_config(self, model: PreTrainedModel) -> Any:
        _check_scale(model)
        return peft.PromptTuningConfig(num_virtual_tokens=self._request.num_virtual_tokens)

    def _add(self, model: PreTrainedModel, config: Any) -> None:
        words = _reader(model).get_input_embeddings()
        _set_sizes(config, model, words.embedding_dim)
        encoder: Any = peft.PromptEmbedding(config, words)
        model.prompt_encoder = encoder
        _reader(model).set_input_embeddings(PromptedEmbedding(words, encoder.embedding))
        wrap_heads(model, config.modules_to_save)

    def initial(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> dict[str, torch.Tensor]:
        """The embeddings of --prompt_tuning_init_text, repeated, or else of words drawn by seed.

        Lester et al. found both better than numbers at random.
        """
        prompted: Any = _reader(model).get_input_embeddings()
        count = prompted.prompt.num_embeddings
        text = self._request.prompt_tuning_init_text
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        if ids:
            ids = (ids * math.ceil(count / len(ids)))[:count]
        else:
            words = sorted({*range(len(tokenizer))} - {*tokenizer.all_special_ids})
            ids = np.random.default_rng(seed).choice(words, count).tolist()
        with gathered(prompted.words.weight):
            values = prompted.words.weight[ids].detach().float().cpu().clone()
        return {_EMBEDDINGS: values}


class PrefixTuning(_VirtualTokens):
    """Trained keys and values of virtual tokens in every layer.

    Li and Liang 2021, arXiv:2101.00190.
    For decoder-only models: peft's reach only the decoder's self-attention in encoder-decoders
    (https://github.com/huggingface/peft/issues/491), and encoders take no keys and values.
    """

    def _new_config(self, model: PreTrainedModel) -> Any:
        if reason := _no_prefix(model):
            found = f"prefix for the model type {model.config.model_type}: {reason}"
            expected, hint = "a decoder-only model", "use --tuning lora, ia3 or prompt"
            raise BadInput([Problem("--tuning", found, expected, hint)])
        return peft.PrefixTuningConfig(num_virtual_tokens=self._request.num_virtual_tokens)

    def _add(self, model: PreTrainedModel, config: Any) -> None:
        sizes = family_of(model.config).dimensions(model.config)
        heads = sizes.keys * sizes.heads // sizes.inner
        config.num_attention_heads = heads
        _set_sizes(config, model, sizes.keys)
        encoder: Any = peft.PrefixEncoder(config)
        model.prompt_encoder = encoder
        PrefixAttention(encoder.embedding, heads).use_in(model)

    def base_alone(self, model: PreTrainedModel) -> None:
        """None: the attention of all layers reads the prefix."""
        return

    def initial(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> dict[str, torch.Tensor]:
        """Normal, as in peft."""
        (shape,) = (one.shape for one in self.saved(model).values())
        drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return {_EMBEDDINGS: torch.from_numpy(drawn)}


class PromptedEmbedding(torch.nn.Module):
    """Word embeddings, and embeddings of virtual tokens, whose ids are -count to -1."""

    def __init__(self, words: Any, prompt: torch.nn.Embedding):
        super().__init__()
        self.words = words
        self.prompt = prompt

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.words.weight
        return weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.words(ids.clamp(min=0))
        virtual = self.prompt(torch.where(ids < 0, ids + self.prompt.num_embeddings, 0))
        return torch.where(ids[..., None] < 0, virtual.to(embedded.dtype), embedded)


_EMBEDDINGS = "prompt_embeddings"
"""The name of the virtual tokens in peft's files."""


def _reader(model: PreTrainedModel) -> Any:
    """The part of a model that reads the source."""
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _set_sizes(config: Any, model: PreTrainedModel, width: int) -> None:
    sizes = family_of(model.config).dimensions(model.config)
    config.num_transformer_submodules = 1
    config.token_dim = width
    config.num_layers = max(sizes.encoder_layers, sizes.decoder_layers)
    config.num_attention_heads = config.num_attention_heads or sizes.heads


def _check_scale(model: PreTrainedModel) -> None:
    """Refuse models whose words peft embeds in another way than they do: it leaves out a factor."""
    if getattr(model.config, "scale_embedding", False) and model.config.is_encoder_decoder:
        found = f"prompt for {model.config.model_type} with scale_embedding"
        expected = "a model that peft embeds words for as the model does"
        raise BadInput([Problem("--tuning", found, expected, "use --tuning lora or ia3")])


def _no_prefix(model: PreTrainedModel) -> str | None:
    """Why a model cannot have a prefix; None if it can."""
    if model.config.is_encoder_decoder:
        return "peft's prefix would reach neither encoder nor cross-attention"
    if not family_of(model.config).generates:
        return "encoders take no keys and values from outside"
    if not (attends_to_all(model.config) and can_attend_to_prefix(model)):
        return "some of its layers do not attend to all earlier tokens"
    return None
