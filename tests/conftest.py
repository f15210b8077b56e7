"""Small real models, tokenizers and mounts for the tests. No test reaches the network."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from workflow.distributed.world import World
from workflow.inference.eval_shard import EvalShard
from workflow.models.batch import Example
from workflow.runs.mount import Mount
from workflow.tasks.base import EvalContext, Prediction, Task
from workflow.training.evaluate import compute_metrics

ROOT = Path(__file__).resolve().parent.parent
T5_TINY = ROOT / "mount" / "models" / "t5-tiny"
GPT_TINY = T5_TINY.with_name("gpt-tiny")
BERT_TINY = T5_TINY.with_name("bert-tiny")
SHARED_DATA = ROOT.parent / "shared" / "data"
REAL_MODELS = Path(os.environ.get("WORKFLOW_REAL_MODELS", ROOT / "build" / "real_models"))
ALONE = EvalShard(World())


@dataclass(frozen=True)
class Evaluation:
    """All that a task tells of an evaluation."""

    metrics: dict[str, Any]
    records: list[Any]
    predictions: list[Any]
    items: list[Any]


def evaluate_alone(task: Task, model: Any, tokenizer: Any, split: Any, spec: Any) -> Evaluation:
    predictions: list[Prediction] = []
    context = EvalContext(model, tokenizer, task.examples(split, spec, trains=False), ALONE)
    metrics = compute_metrics(task, context, spec, predictions.append)
    assert metrics is not None
    return Evaluation(
        metrics,
        [one.record for one in predictions],
        [one.value for one in predictions],
        [one.item for one in predictions],
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(T5_TINY)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, for tests marked `real`."""
    return _find_real_model("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, for tests marked `real`."""
    return _find_real_model("minilm-l6")


def _find_real_model(name: str) -> Path:
    if not (REAL_MODELS / name).exists():
        pytest.skip(f"no {REAL_MODELS / name}: scripts/real_models {REAL_MODELS} makes it")
    return REAL_MODELS / name


def make_t5(seed: int = 0, own_head: bool = True, **changes: Any) -> T5ForConditionalGeneration:
    """A random model in Flan-T5's layout (or, tied, in the first T5's), without dropout."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 1024,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    }
    layout = "gated-gelu" if own_head else "relu"
    config = T5Config(
        **(sizes | changes), feed_forward_proj=layout, tie_word_embeddings=not own_head
    )
    model = T5ForConditionalGeneration(config).eval()
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model))
    return model


def write_hub_folder(model: T5ForConditionalGeneration, folder: Path, layout: str) -> Path:
    """Write a model as the hub's original folders hold it, with t5-tiny's tokenizer.

    Args:
        layout: "safetensors" or "bin", in one file; "sharded-safetensors" or "sharded-bin", in
            several.
    """
    folder.mkdir(parents=True)
    for file in T5_TINY.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            shutil.copy(file, folder)
    config = json.loads(model.config.to_json_string())
    if not model.config.scale_decoder_outputs:
        config["tie_word_embeddings"] = False
    for name in ("scale_decoder_outputs", "dtype"):
        config.pop(name, None)
    config["architectures"] = ["T5ForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.config.scale_decoder_outputs:
        del tensors["lm_head.weight"]
    names = sorted(tensors)
    shards = 3 if layout.startswith("sharded") else 1
    suffix = "safetensors" if layout.endswith("safetensors") else "bin"
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard::shards]}
        file = f"{stem}.{suffix}"
        if shards > 1:
            file = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{suffix}"
        _write_tensors(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)


def addition_records(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Small real records: add one, with an extra key."""
    return [
        {
            "prompt": f"add one: {' '.join(str(number))}",
            "completion": " ".join(str(number + 1)),
            "id": number,
        }
        for number in range(start, start + count * 37, 37)
    ]


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """A mount with the model `small` (random, Flan-T5's layout) and the data `sums`."""
    return make_mount(tmp_path / "mount")


def make_mount(root: Path) -> Mount:
    made = Mount(root)
    made.data.mkdir(parents=True)
    write_hub_folder(make_t5(), made.models / "small", "safetensors")
    write_data(made, "sums", addition_records(24), addition_records(7, start=5))
    return made


def rows_of(sources: Any, read: Any) -> list[list[Example]]:
    """Rows of examples, from the ids of each row's sources and of what their decoders read."""
    return [
        [Example(*ids) for ids in zip(*row, strict=True)] for row in zip(sources, read, strict=True)
    ]


def write_data(mount: Mount, name: str, train: Any, evaluation: Any) -> Path:
    path = mount.data / f"{name}.json"
    path.write_text(json.dumps({"train": train, "eval": evaluation}))
    return path


@pytest.fixture
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    def read(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read
