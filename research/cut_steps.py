"""What the public peer gives, one trial a process: `python3 -m benchmarks.peer_trials NAME …`.

`benchmarks.peer_defects` starts these, as many processes as the trial needs at once. The first of
them writes what it found into a JSON file.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEAD = "lm_head.weight"
EMBEDDING = "shared.weight"


def load_in_parts(folder: Path, accumulation: int) -> dict[str, Any]:
    """Load under DeepSpeed ZeRO-3: how far the head then is from the file's and the embedding."""
    import deepspeed
    from safetensors.torch import load_file
    from transformers import AutoModelForSeq2SeqLM
    from transformers.integrations import HfDeepSpeedConfig

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


def plain_step(folder: Path, accumulation: int) -> dict[str, Any]:
    """Loss and gradient norm by torch alone: the mean over all target tokens of the records."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    batch = make_collator(folder)(read_examples(folder, "train"))
    logits = model(**batch).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    loss.backward()
    norms = [
        parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None
    ]
    return {"loss": float(loss), "grad_norm": float(torch.stack(norms).norm())}


def train_step(folder: Path, accumulation: int) -> dict[str, Any]:
    """Loss and gradient norm that Seq2SeqTrainer logs for one step over all train records."""
    examples = read_examples(folder, "train")
    trainer = make_trainer(
        folder,
        train_dataset=examples,
        per_device_train_batch_size=len(examples) // (world_size() * accumulation),
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        learning_rate=1e-6,
        max_grad_norm=1e9,  # 0 would leave the norm out of the log
        save_strategy="no",
    )
    trainer.train()
    logged = next(line for line in trainer.state.log_history if "grad_norm" in line)
    return {"loss": float(logged["loss"]), "grad_norm": float(logged["grad_norm"])}


def predict(folder: Path, accumulation: int) -> dict[str, Any]:
    """How many predictions Seq2SeqTrainer.predict gives for the eval records."""
    trainer = make_trainer(folder, per_device_eval_batch_size=2, predict_with_generate=True)
    given = trainer.predict(read_examples(folder, "eval"), max_new_tokens=4)
    return {"predictions": len(given.predictions)}


def save(folder: Path, accumulation: int) -> dict[str, Any]:
    """What save_pretrained writes into config.json about the head."""
    from transformers import AutoModelForSeq2SeqLM

    output = folder / "saved"
    AutoModelForSeq2SeqLM.from_pretrained(folder).save_pretrained(output)
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    return {"tie_word_embeddings": config.get("tie_word_embeddings")}


TRIALS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "load_in_parts": load_in_parts,
    "plain_step": plain_step,
    "train_step": train_step,
    "predict": predict,
    "save": save,
}


def make_trainer(folder: Path, train_dataset: Any = None, **settings: Any) -> Any:
    """A Seq2SeqTrainer on the CPU, in a world of as many processes as were started."""
    from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer, Seq2SeqTrainingArguments

    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder / "peer"),
        use_cpu=True,
        ddp_backend="gloo" if world_size() > 1 else None,
        report_to=[],
        disable_tqdm=True,
        seed=0,
        **settings,
    )
    assert_world(arguments.world_size)
    return Seq2SeqTrainer(
        model=AutoModelForSeq2SeqLM.from_pretrained(folder),
        args=arguments,
        train_dataset=train_dataset,
        data_collator=make_collator(folder),
    )


def make_collator(folder: Path) -> Any:
    """transformers' own, which pads labels by -100 and makes the decoder's inputs."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq

    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    return DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder), model=model)


def read_examples(folder: Path, split: str) -> list[dict[str, list[int]]]:
    """The records of the data file in the mount that the model's folder lies in, as tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = json.loads((folder.parent.parent / "data" / "sums.json").read_text(encoding="utf-8"))
    return [
        {
            "input_ids": tokenizer(record["prompt"])["input_ids"],
            "labels": tokenizer(record["completion"])["input_ids"],
        }
        for record in data[split]
    ]


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def assert_world(found: int) -> None:
    """Each process alone would train a world of its own, and look right."""
    if found != world_size():
        raise RuntimeError(f"a world of {found} processes; {world_size()} were started")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.peer_trials", description=__doc__)
    parser.add_argument("name", choices=list(TRIALS))
    parser.add_argument("folder", type=Path, help="of the model, in a mount")
    parser.add_argument("accumulation", type=int, help="batches an optimizer step is cut into")
    parser.add_argument("result", type=Path, help="file for what is found")
    arguments = parser.parse_args()
    found = TRIALS[arguments.name](arguments.folder, arguments.accumulation)
    if os.environ.get("RANK", "0") == "0":
        arguments.result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
