"""What is computed, and its activations: what a micro-batch leaves for the backward pass, in bytes.

Counted operation by operation as in Korthikanti et al. 2022, "Reducing Activation Recomputation in
Large Transformer Models", for layers as T5's: gated feed-forward, attention of the decoder to the
encoder, dropout. On a CPU for the modules of `workflow.models.kernels`, which was measured; on a
GPU for transformers' own, which was not.
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
        trains: whether anything is learned, or the model is evaluated alone.
        on_gpu: whether a device's memory is its own; a CPU's is the host's.
        dropout: whether training drops activations, which takes masks.
        generated: positions (source + new tokens) of the largest batch of generation, with keys
            and values for self-attention and for the encoder's output.
        moments: bytes a parameter of the optimizer's state: 8 for AdamW, 0 for Adafactor's factors.
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
        """Bytes of a number in the precision that computes."""
        return 2 if self.bf16 else 4

    @property
    def length(self) -> int:
        """Of the longest example, source and target."""
        return self.source_length + self.target_length

    @property
    def rows(self) -> float:
        """Of the largest micro-batch, one at least."""
        return max(1.0, self.positions / self.length)


def activation_bytes(sizes: Dimensions, work: Work) -> dict[str, float]:
    """Bytes that training on a micro-batch takes beside weights and gradients, each by its name."""
    computing = work.computing
    source, target = work.rows * work.source_length, work.rows * work.target_length
    own, squared = _block_bytes(sizes, work), _attention_bytes(sizes, work)
    cross = computing * (4 * sizes.width + 2 * sizes.inner)
    encoder_layer = source * (own + squared * work.source_length)
    decoder_layer = (
        target * (own + cross + squared * work.length)
        + source * computing * 2 * sizes.inner  # keys and values of the encoder's output
    )
    one_more = max(encoder_layer, decoder_layer)  # gradients of one layer's, or it recomputed
    if work.gradient_checkpointing:
        encoder_layer = source * computing * sizes.width
        decoder_layer = target * computing * sizes.width
        one_more *= 2
    layers = sizes.encoder_layers * encoder_layer + sizes.decoder_layers * decoder_layer
    return {
        "activations": layers + one_more / 2,
        "logits": target * sizes.vocabulary * computing,
    }


def _block_bytes(sizes: Dimensions, work: Work) -> float:
    """Of a position in a layer, but for what grows with the length: self-attention, feed-forward.

    Each of both blocks: its input and the normed input (on a GPU the norm also keeps a copy in
    float32 and the product before the weight); what dropout keeps, a byte each.
    """
    computing, masks = work.computing, 1 if work.dropout else 0
    norm, gates = 2 * computing, (3 if sizes.gated else 2) * computing
    if work.on_gpu:
        norm += computing + (4 if computing == 2 else 0)
        gates = (7 if sizes.gated else 2) * computing  # transformers' gelu_new is five operations
    blocks = 2 * sizes.width * (norm + masks) + 4 * sizes.inner * computing
    return blocks + sizes.feed_forward * (gates + masks)


def _attention_bytes(sizes: Dimensions, work: Work) -> float:
    """Of a query for each key: on a CPU probabilities, and a byte for which of them are dropped.

    On a GPU the bias of positions with the mask, which torch's fused attention keeps alone.
    """
    return sizes.heads * (work.computing + (1 if work.dropout and not work.on_gpu else 0))


def evaluation_bytes(sizes: Dimensions, work: Work) -> dict[str, float]:
    """Bytes that evaluation takes beside weights: logits of a batch, or keys and values."""
    computing, generated = work.computing, work.generated
    logits = work.rows * work.target_length * sizes.vocabulary * computing
    kept = generated * 2 * sizes.inner * computing * sizes.decoder_layers
    working = generated * computing * (2 * sizes.feed_forward + 4 * sizes.inner)
    next_tokens = 8 * min(  # and a copy in float32
        LOGITS_AT_ONCE, generated / work.length * sizes.vocabulary
    )
    return {"evaluation": max(logits, kept + working + next_tokens)}
