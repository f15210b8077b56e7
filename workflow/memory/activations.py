"""Bytes of activations: what a micro-batch leaves for the backward pass, layer by layer.

Counted operation by operation as in Korthikanti et al. 2022, "Reducing Activation Recomputation in
Large Transformer Models", for T5's layers: gated feed-forward, attention of the decoder to the
encoder, dropout. On a CPU for the modules of `workflow.models.kernels.cpu`, which was measured; on
a GPU for transformers' own, which was not.
"""

from workflow.data.step_planner import LOGITS_AT_ONCE
from workflow.memory.model_dims import Sizes


def activation_bytes(
    sizes: Sizes,
    positions: int,
    source_length: int,
    target_length: int,
    *,
    computing: int,
    on_gpu: bool,
    checkpointing: bool,
    dropout: bool,
) -> dict[str, float]:
    """Bytes that training on a micro-batch takes beside weights and gradients, by what takes them.

    Args:
        positions: rows × (source + target); at least one row.
        computing: bytes of a number.
    """
    rows = max(1.0, positions / (source_length + target_length))
    source, target = rows * source_length, rows * target_length
    own = _block_bytes(sizes, computing, on_gpu, dropout)
    squared = _attention_bytes(sizes, computing, on_gpu, dropout)
    cross = computing * (4 * sizes.width + 2 * sizes.inner)
    encoder_layer = source * (own + squared * source_length)
    decoder_layer = (
        target * (own + cross + squared * (source_length + target_length))
        + source * computing * 2 * sizes.inner  # keys and values of the encoder's output
    )
    one_more = max(encoder_layer, decoder_layer)  # gradients of one layer's, or it recomputed
    if checkpointing:
        encoder_layer = source * computing * sizes.width
        decoder_layer = target * computing * sizes.width
        one_more *= 2
    layers = sizes.encoder_layers * encoder_layer + sizes.decoder_layers * decoder_layer
    return {
        "activations": layers + one_more / 2,
        "logits": target * sizes.vocabulary * computing,
    }


def _block_bytes(sizes: Sizes, computing: int, on_gpu: bool, dropout: bool) -> float:
    """Of a position in a layer, but for what grows with the length: self-attention, feed-forward.

    Each of both blocks: its input and the normed input (on a GPU the norm also keeps a copy in
    float32 and the product before the weight); what dropout keeps, a byte each.
    """
    width, inner, forward = sizes.width, sizes.inner, sizes.feed_forward
    masks = 1 if dropout else 0
    norm, gates = 2 * computing, (3 if sizes.gated else 2) * computing
    if on_gpu:
        norm += computing + (4 if computing == 2 else 0)
        gates = (7 if sizes.gated else 2) * computing  # transformers' gelu_new is five operations
    return 2 * width * (norm + masks) + 4 * inner * computing + forward * (gates + masks)


def _attention_bytes(sizes: Sizes, computing: int, on_gpu: bool, dropout: bool) -> float:
    """Of a query for each key: on a CPU probabilities, and a byte for which of them are dropped.

    On a GPU the bias of positions with the mask, which torch's fused attention keeps alone.
    """
    return sizes.heads * (computing + (1 if dropout and not on_gpu else 0))


def evaluation_bytes(
    sizes: Sizes,
    positions: int,
    source_length: int,
    target_length: int,
    *,
    computing: int,
    generated: int,
) -> dict[str, float]:
    """Bytes that evaluation takes beside weights: logits of a batch, or keys and values.

    Args:
        generated: positions of a batch of generation, with keys and values for self-attention and
            for the encoder's output.
    """
    rows = max(1.0, positions / (source_length + target_length))
    logits = rows * target_length * sizes.vocabulary * computing
    kept = generated * 2 * sizes.inner * computing * sizes.decoder_layers
    working = generated * computing * (2 * sizes.feed_forward + 4 * sizes.inner)
    texts = generated / (source_length + target_length)
    next_tokens = 8 * min(LOGITS_AT_ONCE, texts * sizes.vocabulary)  # and a copy in float32
    return {"evaluation": max(logits, kept + working + next_tokens)}
