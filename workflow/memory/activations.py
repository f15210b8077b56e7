"""The bytes of activations that a micro-batch keeps for the backward pass.

Counted operation by operation as in Korthikanti et al. 2022, "Reducing Activation Recomputation in
Large Transformer Models", for T5's layers with the modules of `workflow.models.kernels`: gated
feed-forward, cross-attention, dropout. On a CPU measured; on a GPU counted from the tensors that
autograd saves (tests/memory/test_activations.py), not measured.
"""

from dataclasses import dataclass

from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from workflow.models.families import Dimensions


@dataclass(frozen=True)
class Work:
    """What is computed, on how many processes.

    Attributes:
        source_length, target_length: tokens of the longest example.
        positions: of the largest micro-batch: rows × (source + target).
        trains: whether the job trains, or only evaluates.
        on_gpu: whether a device has its own memory; a CPU's is the host's.
        dropout: whether training uses dropout, which stores masks.
        generated: positions (source + new tokens) of the largest generation batch, with keys and
            values for self-attention and cross-attention. (On a GPU, what is free then takes more:
            `workflow.inference.free_memory`.)
        moments: bytes of optimizer state per parameter: 8 for AdamW, 0 for Adafactor's factors.
    """

    bf16: bool
    source_length: int
    target_length: int
    positions: int
    trains: bool = True
    processes: int = 1
    on_gpu: bool = True
    gradient_checkpointing: bool = False
    dropout: bool = True
    generated: int = POSITIONS_AT_ONCE
    moments: int = 8

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


def activation_bytes(sizes: Dimensions, work: Work) -> dict[str, float]:
    """Bytes by name that training on a micro-batch takes, without weights and gradients."""
    computing = work.computing
    source, target = work.rows * work.source_length, work.rows * work.target_length
    own, squared = _block_bytes(sizes, work), _attention_bytes(sizes, work)
    cross = computing * (4 * sizes.width + 2 * sizes.inner)
    encoder_layer = source * (own + squared * work.source_length)
    decoder_layer = (
        target * (own + cross + squared * work.length)
        + source * computing * 2 * sizes.inner  # keys and values of the encoder's output
    )
    if sizes.joins_texts:  # one stack reads both
        encoder_layer = decoder_layer = (source + target) * (own + squared * work.length)
    one_more = max(encoder_layer, decoder_layer)  # one layer's gradients, or its recomputation
    if work.gradient_checkpointing:
        encoder_layer = source * computing * sizes.width
        decoder_layer = target * computing * sizes.width
        if sizes.joins_texts:
            encoder_layer = decoder_layer = encoder_layer + decoder_layer
        one_more *= 2
    layers = sizes.encoder_layers * encoder_layer + sizes.decoder_layers * decoder_layer
    return {
        "activations": layers + one_more / 2,
        "position bias": _bias_bytes(sizes, work),
        "logits": target * sizes.vocabulary * computing,
    }


def _block_bytes(sizes: Dimensions, work: Work) -> float:
    """Bytes per position in a layer (self-attention, feed-forward), except what grows with length.

    Each block keeps its input and the normed input; dropout masks take a byte per element. A gated
    feed-forward keeps both gates and their product, on a GPU also the gelu.
    """
    computing, masks = work.computing, 1 if work.dropout else 0
    norm, gates = 2 * computing, 2 * computing
    if sizes.gated:
        gates += (2 if work.on_gpu else 1) * computing
    blocks = 2 * sizes.width * (norm + masks) + 2 * (sizes.inner + sizes.keys) * computing
    return blocks + sizes.feed_forward * (gates + masks)


def _attention_bytes(sizes: Dimensions, work: Work) -> float:
    """Bytes per query and key in a layer: on a CPU the probabilities, and a byte of dropout mask.

    torch's fused attention on a GPU keeps none; `_bias_bytes` counts its mask.
    """
    if work.on_gpu:
        return 0.0
    return sizes.heads * (work.computing + (1 if work.dropout else 0))


def _bias_bytes(sizes: Dimensions, work: Work) -> float:
    """Bytes of the position bias with the mask, on a GPU, one for all layers of a stack.

    In the backward pass also of its gradient, the sum so far and a layer's.
    """
    if not work.on_gpu or sizes.joins_texts:
        return 0.0
    source, target = work.source_length**2, work.target_length**2
    numbers = source + target + 2 * max(source, target)
    return work.rows * sizes.heads * numbers * work.computing


def evaluation_bytes(sizes: Dimensions, work: Work) -> dict[str, float]:
    """Bytes that evaluation takes without weights: a batch's logits, or keys and values."""
    computing, generated = work.computing, work.generated
    logits = work.rows * work.target_length * sizes.vocabulary * computing
    kept = generated * sizes.bytes_per_position(computing)
    next_tokens = 8 * min(  # and a copy in float32
        LOGITS_AT_ONCE, generated / work.length * sizes.vocabulary
    )
    return {"evaluation": max(logits, kept + next_tokens)}
