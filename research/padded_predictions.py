"""transformers 5.23.0 (accelerate 1.15.0) predicts some records twice on several processes."""

from pathlib import Path
from typing import Any

from benchmarks.peer import tokenized
from research.trials import EVALUATED, Row, peer_trainer, run_ours, try_ours, try_peer
from workflow.runs.predictions import evaluations


def prove(mount: Path) -> Row:
    """How many predictions come out of 2 processes."""
    peer = try_peer(mount, predict, processes=2)["predictions"]
    right = len(EVALUATED)
    return Row(
        f"Answers to {right} eval records on 2 processes, the peer's with batches of 2",
        str(right), str(peer), peer == right, *try_ours(lambda: _ours(mount)),
    )  # fmt: skip


def predict(folder: Path, accumulation: int) -> dict[str, Any]:
    """How many predictions Seq2SeqTrainer.predict gives for the eval records."""
    from transformers import AutoTokenizer

    trainer = peer_trainer(
        folder, train=False, per_device_eval_batch_size=2, predict_with_generate=True
    )
    examples = tokenized(AutoTokenizer.from_pretrained(folder), EVALUATED)
    return {"predictions": len(trainer.predict(examples, max_new_tokens=4).predictions)}


def _ours(mount: Path) -> tuple[str, bool]:
    run = run_ours(mount, "--no_train", "--num_processes", "2")
    (evaluation,) = evaluations(run)
    prompts = [item["prompt"] for item in evaluation.predictions()]
    return str(len(prompts)), prompts == [record["prompt"] for record in EVALUATED]
