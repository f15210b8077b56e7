"""The model of a server: loaded as for an evaluation, whatever its family, task and tuning."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from workflow.config.parse import make_job
from workflow.core.console import warnings_only
from workflow.core.errors import BadInput, Problem
from workflow.data.records import Record
from workflow.data.schema import check_record
from workflow.data.shapes.classes import SIDES
from workflow.data.shapes.texts import Prompt
from workflow.data.token_cache import Ragged
from workflow.distributed.device import pick_device
from workflow.distributed.world import World
from workflow.inference.eval_shard import EvalShard
from workflow.models.families import family_of
from workflow.models.hub import fetch_settings, load_config
from workflow.models.task_file import read_task
from workflow.runs.checkpoint import hold_for_reading
from workflow.runs.mount import Mount
from workflow.tasks.base import EvalContext
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.adapters import find_model_and_adapter
from workflow.training.prepare import Job, prepare
from workflow.training.setup import load_together


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and the job that an evaluation of it would be.

    Attributes:
        name: by which requests choose it.
    """

    name: str
    job: Job
    model: PreTrainedModel

    @property
    def writes(self) -> bool:
        """Whether it writes texts; otherwise it scores."""
        return isinstance(self.job.task, Seq2Seq)

    @property
    def joins_texts(self) -> bool:
        """Whether prompt and answer are one text."""
        return family_of(self.model.config).joins_texts

    @property
    def vocabulary(self) -> int:
        """The number of ids that the model writes."""
        return family_of(self.model.config).vocabulary_size(self.model.config)

    def most_tokens(self, prompt: int) -> int:
        """The most tokens that the model writes after so many of a prompt."""
        read, written = family_of(self.model.config).max_positions(self.model.config)
        left = read - prompt if self.joins_texts else written
        return int(min(left, 2**31))

    def prompt_ids(self, prompt: Prompt | list[int]) -> list[int]:
        """The ids of a prompt, as in evaluations: in the template that the model was trained with.

        Raises:
            BadInput: a chat that the model's template refuses, or ids that the model has not.
        """
        ids: list[int]
        if isinstance(prompt, list):
            ids = prompt
            if not (ids and all(0 <= one < self.vocabulary for one in ids)):
                expected = f"ids below {self.vocabulary:,}"
                raise BadInput([Problem("prompt", "ids out of range", expected, "correct them")])
        else:
            (ids,) = self.job.task.format.sources(self.job.tokenizer, [prompt])
        return [*range(-self.job.spec.virtual_ids, 0), *ids]

    def scores(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """The items of a prediction file for these records, without the records.

        Raises:
            BadInput: records that the model does not score.
        """
        job = self.job
        problems = [
            problem
            for number, record in enumerate(records)
            for problem in check_record(record, f"records[{number}]", job.task.shape, False)
        ]
        if problems:
            raise BadInput(problems)
        split: Any = _Records(records, *job.task.encode(job.tokenizer, records))
        examples = job.task.examples(split, job.spec, trains=False)
        shard = EvalShard(World())
        context = EvalContext(self.model, job.tokenizer, examples, shard, untrained=True)
        evaluation = job.task.evaluation(context, job.spec)
        results = [one for _, one in sorted(evaluation.results)]
        items = [one.item for one in evaluation.judge(range(evaluation.count), iter(results))]
        return [{k: v for k, v in item.items() if k != "orig_d"} for item in items]


class _Records:
    """Records in memory, with what a task reads of a split."""

    def __init__(self, records: Sequence[Record], sources: list[Any], targets: list[Any]):
        self._records = records
        self.sources, self.targets = _ragged(sources), _ragged(targets)

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> Record:
        return self._records[index]


def _ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    offsets = np.cumsum([0, *map(len, rows)])
    values = np.concatenate([np.zeros(0, np.int32), *(np.array(row, np.int32) for row in rows)])
    return Ragged(values.astype(np.int32), offsets)


def load_served(name: str, mount: Mount, bf16: bool | None) -> ServedModel:
    """Load the model of a run's checkpoint, or any other of the mount or the hub.

    Raises:
        BadInput: all that is wrong with it.
    """
    is_local = "/" not in name or (mount.models / name.partition("/")[0]).exists()
    named = "model_init_name" if is_local else "model_pretrain_name"
    asked = make_job("seq2seq", **{named: name}, data_name="none")
    found, adapter, problems = find_model_and_adapter(mount, asked)
    if problems:
        raise BadInput([dataclasses.replace(one, where=f"model {name}") for one in problems])
    stored = read_task(adapter or Path(str(found)))
    task = stored.get("task") or _usual_task(found)
    classes = set(stored.get("classes") or ())
    record: Record = {"prompt": "a"} if task == "seq2seq" else {"input": "a"}
    if task == "clf" and classes and classes <= {*SIDES}:
        record = {"prompt": "a", "response_a": "b", "response_b": "c"}
    # A job is prepared on records, of which nobody wants to read.
    with TemporaryDirectory() as folder, warnings_only():
        data = Path(folder) / "served.jsonl"
        data.write_text(json.dumps(record) + "\n")
        request = make_job(task, **{named: name}, data_name=str(data), no_train=True, bf16=bf16)
        job = prepare(request, mount)
    world = World()
    world.begin(pick_device(), alone_too=False)
    if job.strategy is not None:
        hint = "serve it on a larger machine"
        raise BadInput([Problem(name, "a model that does not fit one device", "memory", hint)])
    with hold_for_reading(job.model_source, job.adapter):
        job, model = load_together(job, world, None)
    return ServedModel(name, job, model)


def load_adapters(
    adapters: Mapping[str, str], base: ServedModel, mount: Mount
) -> Iterator[ServedModel]:
    """Load adapters of a served model, whose weights they share.

    Args:
        adapters: the checkpoint of each name.

    Raises:
        BadInput: one that cannot be loaded, or is of another model.
    """
    for name, checkpoint in adapters.items():
        where, expected = f"--adapter {name}={checkpoint}", f"an adapter of {base.name}"
        if name == base.name:
            hint = "give the adapter another name"
            raise BadInput([Problem(where, "the name of the base", "a name of its own", hint)])
        found = load_served(checkpoint, mount, base.job.spec.bf16)
        if found.job.adapter is None:
            hint = "serve a whole model by a server of its own"
            raise BadInput([Problem(where, "a whole model", expected, hint)])
        if _folder(found) != _folder(base):
            hint = "serve adapters of another model by another server"
            of_other = f"an adapter of {found.job.model_source}"
            raise BadInput([Problem(where, of_other, expected, hint)])
        share_weights(found.model, base.model)
        yield dataclasses.replace(found, name=name)


def _folder(served: ServedModel) -> Path:
    return Path(str(served.job.model_source)).resolve()


def share_weights(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Let a model use the other's tensors where both are equal, so that they are held once."""
    held = {_plain_name(name): one for name, one in other.named_parameters()}
    for name, one in model.named_parameters():
        same = held.get(_plain_name(name))
        if same is not None and same.dtype == one.dtype and torch.equal(same, one):
            one.data = same.data


def _plain_name(name: str) -> str:
    """A parameter's name in the base model: adapters wrap its modules."""
    parts = name.split(".")
    return ".".join(
        part for part in parts if part not in ("base_layer", "words", "original_module")
    )


def _usual_task(model: Path | str) -> str:
    """The task of a model that says none: an encoder scores, others write."""
    return "seq2seq" if family_of(load_config(fetch_settings(model), 0)).generates else "clf"
