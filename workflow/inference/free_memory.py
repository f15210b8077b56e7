"""How many positions are generated at once: on a GPU as many as fit the memory that is free."""

import torch
from transformers import PreTrainedModel

from workflow.data.step_planner import LOGITS_AT_ONCE, POSITIONS_AT_ONCE
from workflow.distributed.world import World
from workflow.models.families import Dimensions, family_of

SHARE = 0.5
"""Of a GPU's free memory: the rest is for sampling's copies of the logits, and fragmentation."""

MOST_AT_ONCE = 32 * POSITIONS_AT_ONCE
"""With more, the logits of all texts would be more numbers than 31-bit indexes count."""


def positions_at_once(model: PreTrainedModel, world: World) -> int:
    """Positions (source + new tokens, of every sample) of a batch, the same in all processes."""
    device = model.device
    if device.type != "cuda":
        return POSITIONS_AT_ONCE
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = min(world.gather(torch.cuda.mem_get_info(device)[0] + reusable))
    sizes = family_of(model.config).dimensions(model.config)
    return positions_in(free, sizes, model.dtype.itemsize)


def positions_in(free: float, sizes: Dimensions, computing: int) -> int:
    """The positions that fit some bytes of free memory; at least those of the memory plan.

    Args:
        computing: bytes per number.
    """
    logits = 8 * LOGITS_AT_ONCE / POSITIONS_AT_ONCE  # and a copy in float32
    fitting = int(SHARE * free / (sizes.bytes_per_position(computing) + logits))
    return min(max(fitting, POSITIONS_AT_ONCE), MOST_AT_ONCE)
