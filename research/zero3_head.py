"""transformers 5.23.0 under DeepSpeed 0.19.8's ZeRO-3 loads the embedding as a T5 model's head."""

from pathlib import Path
from typing import Any

from research.trials import LEARNING_RATE, Row, assert_world, one_step, run_ours, try_ours, try_peer

HEAD = "lm_head.weight"
EMBEDDING = "shared.weight"


def prove(mount: Path) -> Row:
    """The head after loading under ZeRO-3, against the file's."""
    peer = try_peer(mount, load_in_parts, processes=2)
    right = peer["head_off_by"] == peer["embedding_off_by"] == 0
    found = f"differs by {peer['head_off_by']:.2g}"
    if peer["head_is_embedding"]:
        found += ", and equals the embedding"
    return Row(
        "The own head of a model loaded under ZeRO-3 by 2 processes, against its file",
        "equal", found, right, *try_ours(lambda: _ours(mount)),
    )  # fmt: skip


def load_in_parts(folder: Path, accumulation: int) -> dict[str, Any]:
    """Load under DeepSpeed ZeRO-3: how far the head then is from the file's and the embedding."""
    import deepspeed
    from safetensors.torch import load_file
    from transformers import AutoModelForSeq2SeqLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    assert_world(deepspeed.comm.get_world_size())
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    kept = HfDeepSpeedConfig(settings)  # transformers itself keeps a weak reference only
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert kept.is_zero3()
    files = load_file(folder / "model.safetensors")
    parameters = [model.lm_head.weight, model.shared.weight]
    with deepspeed.zero.GatheredParameters(parameters):
        head, embedding = (parameter.detach().float().clone() for parameter in parameters)
    return {
        "head_off_by": float((head - files[HEAD]).abs().max()),
        "embedding_off_by": float((embedding - files[EMBEDDING]).abs().max()),
        "head_is_embedding": bool(head.equal(embedding)),
    }


def _ours(mount: Path) -> tuple[str, bool]:
    from safetensors.torch import load_file

    flags = ["--zero_stage", "3", "--learning_rate", str(LEARNING_RATE)]
    run = run_ours(mount, *one_step(2, 1), *flags)
    before = load_file(mount / "models" / "m" / "model.safetensors")
    after = load_file(run / "checkpoint-1" / "model.safetensors")
    off_by = float((after[HEAD] - before[HEAD]).abs().max())
    tied = after[HEAD].equal(after[EMBEDDING])
    text = f"differs by {off_by:.2g} after a step of {LEARNING_RATE:g}"
    text += ", and equals the embedding" if tied else ""
    return text, 0 < off_by < 10 * LEARNING_RATE and not tied
