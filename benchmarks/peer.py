"""The public peer: transformers, used as its own examples use it."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def check_packages() -> None:
    """Exit with the remedy if the extra `bench` is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("accelerate is not installed. Hint: run scripts/setup --extra bench")


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def load_peer(folder: Path) -> tuple[Any, Any]:
    """The model in float32 and the tokenizer of a folder; on the GPU where there is one."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return model.cuda() if has_cuda() else model, AutoTokenizer.from_pretrained(folder)


def make_trainer(model: Any, tokenizer: Any, settings: dict[str, Any], **parts: Any) -> Any:
    """A Seq2SeqTrainer.

    Args:
        settings: of Seq2SeqTrainingArguments.
        parts: what else the trainer is made of, as its dataset.
    """
    check_packages()
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    usual: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": not has_cuda()}
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(**usual, **settings),
        data_collator=make_collator(model, tokenizer),
        **parts,
    )


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
