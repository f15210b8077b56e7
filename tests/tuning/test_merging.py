"""`merge`: a plain model with the adapter's logits, whose tied weights are still tied."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tuned_models import (
    METHODS,
    assert_close,
    base_folder,
    by_transformers,
    cases,
    logits_of,
    plain_logits,
    ready,
    save,
    stirred,
    train,
    tuned_job,
)

from workflow.core.checksums import write_checksums
from workflow.core.errors import BadInput
from workflow.distributed.world import World
from workflow.models.state_dict import ADAPTER_FILE
from workflow.runs.mount import Mount
from workflow.training.adapters import digest_of, tensor_digests
from workflow.training.merge import merge, merge_modules
from workflow.training.prepare import Job

KINDS = (
    "t5", "t5-tied", "bart", "t5gemma", "gpt2", "llama", "llama-tied", "opt", "qwen2", "bert",
    "distilbert", "deberta-v2", "modernbert",
)  # fmt: skip
TIED = ("t5-tied", "bart", "t5gemma", "gpt2", "llama-tied", "opt")


def trained(kind: str, method: str, root: Path) -> tuple[Job, torch.nn.Module, Mount]:
    """A mount with a base and, as `run/checkpoint-1`, an adapter of it."""
    mount = Mount(root)
    base = mount.models / "base"
    shutil.copytree(base_folder(kind), base)
    job = tuned_job(kind, method, root / "data")
    entry = {"name": "base", "digest": digest_of([tensor_digests(base, World())])}
    job = dataclasses.replace(job, model_source=base, base=entry)
    engine = train(job, stirred(ready(job)), steps=1)
    save(job, engine, mount.models / "run")
    return job, engine.model, mount


@pytest.mark.parametrize(("kind", "method"), cases(*KINDS, methods=("lora", "dora", "ia3")))
def test_the_merged_folder_has_the_adapter_s_logits(kind: str, method: str, tmp_path: Path) -> None:
    job, model, mount = trained(kind, method, tmp_path)
    wanted = logits_of(job, model)
    folder = merge("run/checkpoint-1", "merged", mount)
    theirs = by_transformers(folder)
    assert_close(plain_logits(job, theirs), wanted)
    assert not (folder / ADAPTER_FILE).exists()
    head = theirs.get_output_embeddings()
    if head is not None:
        reader = theirs.get_decoder() if theirs.config.is_encoder_decoder else theirs
        is_tied = head.weight is reader.get_input_embeddings().weight
        assert is_tied == (kind in TIED)
    names = load_file(folder / "model.safetensors").keys()
    assert not any("lora" in name or "base_layer" in name for name in names)
    bases = load_file(base_folder(kind) / "model.safetensors").keys()
    assert ("lm_head.weight" in names) == ("lm_head.weight" in bases)
    assert "base" not in json.loads((folder / "task.json").read_text())


@pytest.mark.parametrize("kind", ["t5", "gpt2", "bert"])
def test_merged_modules_are_plain_ones(kind: str, tmp_path: Path) -> None:
    job = tuned_job(kind, "lora", tmp_path)
    model = stirred(ready(job))
    wanted = logits_of(job, model)
    merge_modules(model)
    assert {type(one).__module__.split(".")[0] for one in model.modules()}.isdisjoint({"peft"})
    assert_close(logits_of(job, model), wanted)


@pytest.mark.parametrize(
    ("kind", "method"), [("gpt2", "prompt"), ("gpt2", "prefix"), ("t5", "prompt")]
)
def test_virtual_tokens_are_refused(kind: str, method: str, tmp_path: Path) -> None:
    _, _, mount = trained(kind, method, tmp_path)
    with pytest.raises(BadInput) as raised:
        merge("run/checkpoint-1", "merged", mount)
    assert str(raised.value) == (
        f"{mount.models / 'run' / 'checkpoint-1'}: an adapter of {METHODS[method]['tuning']}, "
        "whose virtual tokens are no weights of a model (expected an adapter of lora or ia3). "
        "Hint: use the adapter itself by --model_init_name."
    )
    assert not (mount.models / "merged").exists()


def test_another_base_is_refused(tmp_path: Path) -> None:
    """Of which one number differs."""
    _, _, mount = trained("gpt2", "lora", tmp_path)
    path = mount.models / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.wte.weight"][3, 3] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(BadInput, match="an adapter does not fit another one"):
        merge("run/checkpoint-1", "merged", mount)
    assert not (mount.models / "merged").exists()


def test_the_same_base_in_several_files_is_accepted(tmp_path: Path) -> None:
    _, _, mount = trained("gpt2", "lora", tmp_path)
    base = mount.models / "base"
    before = digest_of([tensor_digests(base, World())])
    by_transformers(base).save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    (base / "model.safetensors").unlink()
    for file in (tmp_path / "saved").glob("model*"):
        shutil.copy(file, base)
    assert len(list(base.glob("model*.safetensors"))) > 1
    assert digest_of([tensor_digests(base, World())]) == before
    assert merge("run/checkpoint-1", "merged", mount).is_dir()


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    _, _, mount = trained("gpt2", "lora", tmp_path)
    path = mount.models / "run" / "checkpoint-1" / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="adapter_model"):
        merge("run/checkpoint-1", "merged", mount)


def test_an_adapter_of_other_shapes_is_refused(tmp_path: Path) -> None:
    _, _, mount = trained("gpt2", "lora", tmp_path)
    folder = mount.models / "run" / "checkpoint-1"
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)
    (folder / "checksums.json").unlink(missing_ok=True)
    write_checksums(folder, {})
    with pytest.raises(BadInput, match="the tensors of this adapter"):
        merge("run/checkpoint-1", "merged", mount)
