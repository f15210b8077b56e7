"""transformers 5.23.0 (accelerate 1.15.0) multiplies a T5 step's loss by processes × accumulation.

The gradient norm is multiplied, too; one batch in plain torch gives the correct values.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer import load_peer, make_collator, tokenized
from research.trials import (
    LEARNING_RATE,
    TRAINED,
    Row,
    one_step,
    peer_trainer,
    run_ours,
    try_ours,
    try_peer,
    world_size,
)
from workflow.runs.predictions import read_lines

CUTS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Processes and accumulation steps of the same optimizer step."""
TOLERANCE = 1e-3
"""Relative; the peer rounds what it logs."""


def prove(mount: Path) -> Row:
    """Loss and gradient norm of the same step, in several cuts."""
    right = try_peer(mount, plain_step)
    peer = [try_peer(mount, train_step, processes, steps) for processes, steps in CUTS]

    def ours() -> tuple[str, bool]:
        runs = (run_ours(mount, *one_step(processes, steps)) for processes, steps in CUTS)
        found = [next(read_lines(run / "train_log.jsonl")) for run in runs]
        return _losses_and_norms(found), all(_is_step(logged, right) for logged in found)

    cuts = ", ".join(f"{processes} × {steps}" for processes, steps in CUTS)
    return Row(
        f"Loss and gradient norm logged for one step of the same examples, cut into processes × "
        f"accumulation steps: {cuts}",
        f"{_losses_and_norms([right])} each time",
        _losses_and_norms(peer), all(_is_step(logged, right) for logged in peer), *try_ours(ours),
    )  # fmt: skip


def plain_step(folder: Path, accumulation: int) -> dict[str, Any]:
    """Loss and gradient norm by torch alone: the mean over all target tokens of the records."""
    import torch

    model, tokenizer = load_peer(folder)
    batch = make_collator(model, tokenizer)(tokenized(tokenizer, TRAINED))
    logits = model(**batch).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    loss.backward()
    norms = [
        parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None
    ]
    return {"loss": float(loss), "grad_norm": float(torch.stack(norms).norm())}


def train_step(folder: Path, accumulation: int) -> dict[str, Any]:
    """Loss and gradient norm that Seq2SeqTrainer logs for one step over all train records."""
    trainer = peer_trainer(
        folder,
        train=True,
        per_device_train_batch_size=len(TRAINED) // (world_size() * accumulation),
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        learning_rate=LEARNING_RATE,
        max_grad_norm=1e9,  # 0 would leave the norm out of the log
        save_strategy="no",
    )
    trainer.train()
    logged = next(line for line in trainer.state.log_history if "grad_norm" in line)
    return {"loss": float(logged["loss"]), "grad_norm": float(logged["grad_norm"])}


def _losses_and_norms(found: Sequence[dict[str, Any]]) -> str:
    """The losses, then the gradient norms, in the order of the cuts."""
    losses = ", ".join(f"{logged['loss']:.3f}" for logged in found)
    norms = ", ".join(f"{logged['grad_norm']:.3f}" for logged in found)
    return f"loss {losses}; norm {norms}"


def _is_step(logged: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(
        abs(logged[name] - right[name]) <= TOLERANCE * right[name] for name in ("loss", "grad_norm")
    )
