"""The ids of every shape of records for every family; tests/golden/shape_ids.txt has them.

A line of an example has the tokens that the model reads, and behind => the tokens that it learns to
write, or the probabilities of the classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, T5_TINY, make_mount, write_data
from golden_files import check
from test_prompts import CHATS, chatting
from transformers import AutoConfig

from workflow import make_job
from workflow.models.batch import SECOND
from workflow.training.prepare import prepare

PAIR = {"prompt": "name it", "response_a": "a town", "response_b": "a tree"}
RECORDS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "completion": ("seq2seq", [{"prompt": "add one: 4", "completion": "5"}]),
    "instruction": ("seq2seq", [
        {"instruction": "say it", "input": "loud", "output": "it"},
        {"instruction": "say it", "input": "", "output": "it"},
    ]),
    "chat": ("seq2seq", [CHATS[1]]),
    "text": ("seq2seq", [{"text": "the house is red and white"}, {"text": "yes it is"}]),
    "target": ("clf", [{"input": "is it so?", "target": 0.9}]),
    "label": ("clf", [{"input": "a house", "label": "yes"}, {"input": "a town", "label": "no"}]),
    "pair": ("clf", [PAIR | {"label": "a"}, PAIR | {"label": {"b": 0.7, "tie": 0.3}}]),
    "chosen": ("clf", [{"prompt": "name it", "chosen": "a town", "rejected": "a tree"}]),
}  # fmt: skip


def shown(shape: str, family: str, folder: Path, **flags: Any) -> list[str]:
    """The lines of a shape's records for a family's tiny model."""
    task, records = RECORDS[shape]
    mount = make_mount(folder)
    model = {"t5": T5_TINY, "gpt": GPT_TINY, "bert": BERT_TINY}[family]
    if shape == "chat":
        model = chatting(folder / "chatty")
    (mount.models / "m").symlink_to(model)
    write_data(mount, "data", records, records)
    job = prepare(
        make_job(task, model_init_name="m", data_name="data", max_steps=1, **flags), mount
    )
    examples, lines = job.examples["train"].in_step(1), []
    for index in range(len(examples)):
        source, target = examples.sources[index], examples.targets[index]
        types = "".join(str(int(one >= SECOND)) for one in source.tolist())
        read = job.tokenizer.convert_ids_to_tokens((np.asarray(source) % SECOND).tolist())
        line = " ".join(read) + (f" [types {types}]" if "1" in types else "")
        if task == "clf":
            values = target.view(np.float32) if shape == "target" else np.asarray(target)
            lines.append(f"{line} => {[round(float(one), 3) for one in values]}")
            continue
        learned = job.tokenizer.convert_ids_to_tokens(target.tolist())
        lines.append(f"{line} => {' '.join(learned)}")
        batch = job.task.collate(examples, (np.array([index]),), AutoConfig.from_pretrained(model))
        assert torch.equal(batch.targets, torch.from_numpy(target.astype(np.int64)))
        assert len(batch.target_positions) == len(target) > 0  # never a mask of zeros
        if family == "gpt":  # label i is at the position that reads the token before it
            whole = [*source.tolist(), *target.tolist()]
            for label, position in zip(target, batch.target_positions.tolist(), strict=True):
                assert batch.input_ids[0, position] == whole[position]
                assert whole[position + 1] == label
    return lines


CASES = [
    (shape, family, flags)
    for shape, (task, _) in RECORDS.items()
    for family in ("t5", "gpt", "bert")
    for flags in ({}, {"train_on": "all_turns"})
    # Others are refused; tests/golden/bad_input.txt has their messages.
    if (task == "clf" or family != "bert")
    and (shape != "chat" or family == "gpt")
    and (shape == "chat" or not flags)
]


@pytest.mark.parametrize(("shape", "family", "flags"), CASES)
def test_the_ids_of_every_shape_and_family(
    tmp_path: Path, shape: str, family: str, flags: dict[str, Any]
) -> None:
    title = " ".join([shape, "for", family, *flags.values()])
    check("shape_ids.txt", title, "\n".join(shown(shape, family, tmp_path, **flags)))
