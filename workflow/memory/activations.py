"""The bytes of activations that a micro-batch keeps for the backward pass.

Counted operation by operation as in Korthikanti et al. 2022, "Reducing Activation Recomputation in
Large Transformer Models", block by block: norms, attention, feed-forward, logits. On a CPU
measured; on a GPU counted from the tensors that autograd saves (tests/memory/test_activations.py),
not measured.
"""

import dataclasses
from dataclasses import dataclass

from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from workflow.memory.model_dims import Sizes
from workflow.memory.tuned_layers import TunedLayers
from workflow.models.kernels.attention import SHORT


@dataclass(frozen=True)
class Work:
    """What is computed, on how many processes.

    Attributes:
        source_length, target_length: tokens of the longest example.
        positions: of the largest micro-batch: rows × (source + target).
        trains: whether the job trains, or only evaluates.
        on_gpu: whether a device has its own memory; a CPU's is the host's.
        generated: positions (source + new tokens) of the largest generation batch, with keys and
            values for self-attention and cross-attention. (On a GPU, what is free then takes more:
            `workflow.inference.free_memory`.)
        moments: bytes of optimizer state per trained element: 8 for AdamW, 0 for Adafactor.
    """

    bf16: bool
    source_length: int
    target_length: int
    positions: int
    trains: bool = True
    processes: int = 1
    on_gpu: bool = True
    gradient_checkpointing: bool = False
    generated: int = POSITIONS_AT_ONCE
    moments: float = 8

    @property
    def computing(self) -> int:
        """Bytes per number in compute precision."""
        return 2 if self.bf16 else 4

    @property
    def length(self) -> int:
        """Tokens of the longest example, source and target."""
        return self.source_length + self.target_length

    @property
    def rows(self) -> float:
        """Rows of the largest micro-batch, at least 1."""
        return max(1.0, self.positions / self.length)


def activation_bytes(sizes: Sizes, work: Work) -> dict[str, float]:
    """Bytes by name that training on a micro-batch takes, without weights and gradients."""
    computing = work.computing
    source, target = work.rows * work.source_length, work.rows * work.target_length
    encoder_layer, decoder_layer = _layers_bytes(sizes, work)
    whole = max(_layers_bytes(dataclasses.replace(sizes, tuned=TunedLayers()), work))
    one_more = whole / 2  # one layer's gradients
    if work.gradient_checkpointing:
        # the layer recomputed, and some of its gradients
        one_more = max(encoder_layer, decoder_layer) + 0.35 * whole
        encoder_layer = source * computing * sizes.width
        decoder_layer = target * computing * sizes.width
        if sizes.joins_texts:
            encoder_layer = decoder_layer = encoder_layer + decoder_layer
    encoder = max(0, sizes.encoder_layers - sizes.tuned.silent)
    reached = max(0, sizes.encoder_layers + sizes.decoder_layers - sizes.tuned.silent)
    layers = encoder * encoder_layer + min(reached, sizes.decoder_layers) * decoder_layer
    if encoder and sizes.modules.trimmed and not (work.on_gpu or work.gradient_checkpointing):
        layers -= encoder_layer - source * computing * (sizes.width + 2 * sizes.keys)
    copies = 3 if sizes.modules.capped_logits else 1  # the output of tanh, and a gradient
    return {
        "activations": layers + one_more,
        "position bias": _bias_bytes(sizes, work),
        "logits": target * sizes.vocabulary * computing * copies,
    }


def _layers_bytes(sizes: Sizes, work: Work) -> tuple[float, float]:
    """Bytes of a layer of the encoder, and of the decoder."""
    computing, inputs = work.computing, sizes.tuned.inputs
    source, target = work.rows * work.source_length, work.rows * work.target_length
    if sizes.joins_texts:  # one stack reads both
        joined = (source + target) * _layer_bytes(sizes, work, work.length)
        return joined, joined
    cross = computing * (1 + inputs) * (2 * sizes.width + sizes.inner)
    decoder_layer = (
        target * (_layer_bytes(sizes, work, work.length) + cross)
        + source * computing * 2 * sizes.inner  # keys and values of the encoder's output
    )
    return source * _layer_bytes(sizes, work, work.source_length), decoder_layer


def _layer_bytes(sizes: Sizes, work: Work, length: int) -> float:
    """Bytes per position in a layer (self-attention, feed-forward) on rows of this length."""
    attention = _attention_bytes(sizes, work) + length * _score_bytes(sizes, work)
    adapters = sizes.tuned.adapters * work.computing + sizes.tuned.masks
    return _norm_bytes(sizes, work) + attention + _feed_forward_bytes(sizes, work) + adapters


def _norm_bytes(sizes: Sizes, work: Work) -> float:
    """The norms' inputs, what the two blocks read, and masks of their dropped outputs.

    transformers' RMS norms keep their input in float32 and, if they are trained (as linear layers
    are), what they multiply by the weights. A dropout mask takes a byte per element.
    """
    modules, computing, inputs = sizes.modules, work.computing, sizes.tuned.inputs
    norm = 4 + computing * inputs if modules.rms_norms else computing
    masks = 2 if modules.dropout else 0
    heads = (sizes.inner + sizes.keys) * norm if modules.head_norms else 0
    return sizes.width * (modules.norms * norm + 2 * computing * inputs + masks) + heads


def _feed_forward_bytes(sizes: Sizes, work: Work) -> float:
    """What the activation reads, and what it writes, for the gated gates too and their product.

    Our own gates keep no output of the gelu on a CPU. T5 also has a dropout mask. Experts have
    inputs and outputs of their own.
    """
    modules, computing = sizes.modules, work.computing
    kept = 3.0 if modules.gated else 0.0 if modules.relu else 1.0
    if modules.own and modules.gated and not work.on_gpu:
        kept = 2.0
    kept += 1 if modules.relu and not modules.gated else sizes.tuned.inputs
    mask = 1 if modules.own and modules.dropout else 0
    routed = 2 * sizes.width * computing if modules.experts > 1 else 0
    return modules.experts * (sizes.feed_forward * (kept * computing + mask) + routed)


def _attention_bytes(sizes: Sizes, work: Work) -> float:
    """Queries, keys, values and output; torch's own repeats the keys and values of grouped heads.

    DeBERTa keeps the scores of each query with all relative positions, and the vectors of these for
    each row.
    """
    modules, computing = sizes.modules, work.computing
    if modules.own or _keeps_weights(sizes, work):
        output = 1 if modules.own and work.on_gpu else sizes.tuned.inputs
        return ((1 + output) * sizes.inner + 2 * sizes.keys) * computing
    return (
        4 * sizes.inner + modules.relative * (sizes.heads + sizes.inner / work.length)
    ) * computing


def _score_bytes(sizes: Sizes, work: Work) -> float:
    """Bytes per query and key in a layer.

    Our own attention keeps the probabilities and a byte of dropout mask, torch's a mask in compute
    precision, the same for all heads. Others keep the probabilities in float32 and in compute
    precision, and those that were not dropped; with a cap also its tanh. `_bias_bytes` counts the
    mask of T5 on a GPU.
    """
    modules, computing = sizes.modules, work.computing
    drops = modules.attention_dropout
    if modules.own:
        return 0.0 if work.on_gpu else sizes.heads * (computing + modules.dropout)
    if _keeps_weights(sizes, work):
        return sizes.heads * (computing + drops)
    if modules.relative:
        return sizes.heads * (computing + (computing + 1 if drops else 0))
    if modules.attention != "sdpa":
        dropped = 2 * computing if drops else computing if work.bf16 else 0
        capped = computing if modules.capped_logits else 0
        return sizes.heads * (4 + dropped + capped)
    return computing


def _keeps_weights(sizes: Sizes, work: Work) -> bool:
    """Whether our attention takes the place of torch's (`workflow.models.kernels.attention`)."""
    short = work.bf16 and work.length <= SHORT
    drops = sizes.modules.attention_dropout
    return sizes.modules.attention == "sdpa" and not work.on_gpu and (short or drops)


def _bias_bytes(sizes: Sizes, work: Work) -> float:
    """Bytes of the position bias with the mask, on a GPU, one for all layers of a stack.

    In the backward pass also of its gradient, the sum so far and a layer's.
    """
    if not work.on_gpu or not sizes.modules.own:
        return 0.0
    source, target = work.source_length**2, work.target_length**2
    numbers = source + target + 2 * max(source, target)
    return work.rows * sizes.heads * numbers * work.computing


def evaluation_bytes(sizes: Sizes, work: Work) -> dict[str, float]:
    """Bytes that evaluation takes without weights: a batch's logits, or keys and values."""
    computing, generated = work.computing, work.generated
    logits = work.rows * work.target_length * sizes.vocabulary * computing
    kept = generated * sizes.bytes_per_position(computing)
    next_tokens = 8 * min(  # and a copy in float32
        LOGITS_AT_ONCE, generated / work.length * sizes.vocabulary
    )
    return {"evaluation": max(logits, kept + next_tokens)}
