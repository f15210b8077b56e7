"""The public peer: transformers, used as its own examples use it."""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TRAINING: dict[str, Any] = {
    "learning_rate": 1e-4, "warmup_steps": 1, "weight_decay": 0.01, "save_strategy": "no",
    "seed": 0,
}  # fmt: skip
"""Settings of a training whose steps are timed."""


def check_packages(*names: str) -> None:
    """Exit with the remedy if a package of the extra `bench` is missing: accelerate or these."""
    for name in ("accelerate", *names):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"{name} is not installed. Hint: run scripts/setup --extra bench")


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def load_peer(folder: Path, head: str = "Seq2SeqLM", **settings: Any) -> tuple[Any, Any]:
    """The model, in float32 if not set otherwise, and the tokenizer of a folder; on a GPU if any.

    Args:
        head: what transformers' class AutoModelFor… is named after.
        settings: of the model.
    """
    import torch
    import transformers

    load = getattr(transformers, f"AutoModelFor{head}").from_pretrained
    model = load(folder, **{"dtype": torch.float32} | settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.cuda() if has_cuda() else model, tokenizer


def make_trainer(model: Any, tokenizer: Any, settings: dict[str, Any], **parts: Any) -> Any:
    """A Trainer; of an encoder-decoder, a Seq2SeqTrainer.

    Args:
        settings: of its TrainingArguments.
        parts: what else the trainer is made of, as its dataset.
    """
    check_packages()
    import transformers

    kind = "Seq2SeqTrain" if model.config.is_encoder_decoder else "Train"
    make, make_arguments = (getattr(transformers, kind + end) for end in ("er", "ingArguments"))
    parts.setdefault("data_collator", make_collator(model, tokenizer))
    return make(model=model, args=make_arguments(**usual_settings(), **settings), **parts)


def usual_settings() -> dict[str, Any]:
    """Of TrainingArguments: no reports, on the GPU where there is one."""
    return {"report_to": [], "disable_tqdm": True, "use_cpu": not has_cuda()}


def time_training(trainer: Any, warm_up: int) -> float:
    """Train; returns the seconds of the steps after the warm-up."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if has_cuda():
                import torch

                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    return ends[-1] - ends[warm_up - 1]


def make_collator(model: Any, tokenizer: Any) -> Any:
    """transformers' own, which pads labels by -100 and makes the decoder's inputs."""
    from transformers import DataCollatorForSeq2Seq

    collate = DataCollatorForSeq2Seq(tokenizer, model=model)  # gives labels of None, too
    return lambda rows: {name: t for name, t in collate(rows).items() if t is not None}


def tokenized(tokenizer: Any, records: Sequence[Mapping[str, str]]) -> list[dict[str, list[int]]]:
    """Examples of prompts and completions, cut as this project cuts them by itself."""
    return [
        {
            "input_ids": tokenizer(record["prompt"], max_length=1024, truncation=True)["input_ids"],
            "labels": tokenizer(record["completion"], max_length=512, truncation=True)["input_ids"],
        }
        for record in records
    ]


def chat_example(tokenizer: Any, record: Mapping[str, str]) -> dict[str, list[int]]:
    """Of a decoder-only model, with the loss on the completion only."""
    prompt = chat_prompt(tokenizer, record)
    answer = record["completion"] + tokenizer.eos_token
    completion = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def chat_prompt(tokenizer: Any, record: Mapping[str, str]) -> list[int]:
    turns = [{"role": "user", "content": record["prompt"]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def mean_token_loss(model: Any, tokenizer: Any, examples: Sequence[Any], batch: int) -> float:
    """Of the labels of all examples, by plain calls."""
    import torch

    collate = make_collator(model, tokenizer)
    model.eval()
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(examples), batch):
            rows = collate(examples[start : start + batch])
            inputs = {name: tensor.to(model.device) for name, tensor in rows.items()}
            count = int((inputs["labels"] != -100).sum())
            loss += float(model(**inputs).loss) * count
            tokens += count
    return loss / tokens
