"""What a run with an adapter writes: plain peft computes the same from it, and so do we."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tuned_models import (
    CASES,
    ENCODERS,
    METHODS,
    assert_close,
    base_folder,
    by_peft,
    cases,
    engine_of,
    logits_of,
    plain_logits,
    ready,
    save,
    stirred,
    take_step,
    train,
    tuned_job,
)

from workflow.core.errors import BadInput
from workflow.models.families import family_of
from workflow.models.state_dict import ADAPTER_FILE, file_tensors, mapped_tensors
from workflow.runs.checkpoint import RESUME_FOLDER
from workflow.training.adapters import adopt_adapter
from workflow.training.prepare import Job
from workflow.tuning import tuning_of


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted((checkpoint / RESUME_FOLDER).glob("optimizer*.safetensors"))
    return {name: tensor for file in files for name, tensor in mapped_tensors(file)}


def assert_bit_equal(found: Any, wanted: Any) -> None:
    found, wanted = dict(found), dict(wanted)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_peft_computes_the_same_from_our_files(kind: str, method: str, tmp_path: Path) -> None:
    job = tuned_job(kind, method, tmp_path)
    engine = train(job, stirred(ready(job)), steps=1)
    checkpoint = save(job, engine, tmp_path / "run")
    theirs = by_peft(checkpoint, base_folder(kind))
    wanted = plain_logits(job, theirs)
    assert_close(logits_of(job, engine.model), wanted)
    without = plain_logits(job, theirs.get_base_model()) if method == "prompt" else None
    if without is not None:  # what the adapter changes is far more than rounding
        with pytest.raises(AssertionError):
            assert_close(without, wanted, 1e-3)
    # The plain base has the same settings in its own folder: only the adapter is written.
    assert not (checkpoint / "config.json").exists()
    assert json.loads((checkpoint / ADAPTER_FILE).read_text())["base_model_name_or_path"] == str(
        job.model_source
    )


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_a_checkpoint_goes_on_as_if_it_had_not_stopped(
    kind: str, method: str, tmp_path: Path
) -> None:
    """Bit for bit, whether it is resumed or named as another job's model."""
    job = tuned_job(kind, method, tmp_path)
    engine = train(job, ready(job), steps=2)
    checkpoint = save(job, engine, tmp_path / "run", step=2)
    resumed = engine_of(job, ready(job, checkpoint))
    resumed_model = resumed.master
    assert_bit_equal(resumed_model.named_parameters(), engine.master.named_parameters())
    take_probe(job, resumed)
    resumed.restore(2, iter(state_of(checkpoint).items()))
    for one in (engine, resumed):
        take_step(job, one, 3)
    assert_bit_equal(resumed_model.named_parameters(), engine.master.named_parameters())
    again = save(job, resumed, tmp_path / "again", step=3)
    alone = save(job, engine, tmp_path / "alone", step=3)
    assert_bit_equal(state_of(again), state_of(alone))
    assert state_of(alone).keys() == {
        f"{name}.{kind}" for name in dict(file_tensors(alone)) for kind in ("exp_avg", "exp_avg_sq")
    }


def take_probe(job: Job, engine: Any) -> None:
    """Allocate the optimizer state, as training does before it restores that."""
    import numpy as np

    examples = job.train_examples
    batch = job.task.collate(examples, (np.array([0]),), engine.model.config)
    engine.probe(batch, batch)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_an_adapter_is_the_model_of_another_job(kind: str, method: str, tmp_path: Path) -> None:
    job = tuned_job(kind, method, tmp_path)
    engine = train(job, ready(job), steps=2)
    checkpoint = save(job, engine, tmp_path / "run", step=2)
    request = dataclasses.replace(job.spec, **{"tuning": None, "lora_dropout": 0.05})
    request = dataclasses.replace(request, **dict.fromkeys(("lora_r",), 8), use_dora=False)
    request = dataclasses.replace(request, num_virtual_tokens=20)
    adopted: Any = adopt_adapter(checkpoint, request)
    for name, value in METHODS[method].items():
        assert getattr(adopted, name) == value
    other = dataclasses.replace(
        job, spec=adopted, adapter=checkpoint, tuning=tuning_of(adopted, checkpoint)
    )
    model = ready(other)
    assert_bit_equal(model.named_parameters(), engine.master.named_parameters())
    trainable = dict(other.tuning.trainable(model))
    assert trainable.keys() == dict(job.tuning.trainable(engine.master)).keys()


@pytest.mark.parametrize(("kind", "method"), cases(*ENCODERS))
def test_a_new_head_is_trained_and_saved(kind: str, method: str, tmp_path: Path) -> None:
    """All of it, also what peft does not know to be new, e.g. DeBERTa's pooler."""
    job = tuned_job(kind, method, tmp_path)
    model = ready(job)
    of_full = ready(tuned_job(kind, "full", tmp_path / "full"))
    is_head = family_of(of_full.config).is_head
    new = {name: one for name, one in of_full.named_parameters() if is_head(of_full, name)}
    assert new
    first = {job.tuning.name_in_file(name): one for name, one in new.items()}
    begun = job.tuning.saved(model)
    for name, tensor in first.items():
        assert torch.equal(begun[name], tensor), name
    engine = train(job, model, steps=2)
    checkpoint = save(job, engine, tmp_path / "run")
    saved = dict(file_tensors(checkpoint))
    assert first.keys() <= saved.keys()
    for name, tensor in first.items():
        assert not torch.equal(saved[name], tensor), name
    torch.manual_seed(1)
    one = plain_logits(job, by_peft(checkpoint, base_folder(kind)))
    torch.manual_seed(2)
    other = plain_logits(job, by_peft(checkpoint, base_folder(kind)))
    assert_close(one, other, 0.0)


@pytest.mark.parametrize("kind", ["t5", "bart", "t5gemma", "bert", "deberta-v2"])
def test_a_prefix_is_refused_where_it_would_not_reach(kind: str, tmp_path: Path) -> None:
    job = tuned_job(kind, "prefix", tmp_path)
    with pytest.raises(BadInput) as raised:
        ready(job)
    reason = (
        "encoders take no keys and values from outside" if kind in ENCODERS
        else "peft's prefix would reach neither encoder nor cross-attention"
    )  # fmt: skip
    assert str(raised.value) == (
        f"--tuning: prefix for the model type {kind}: {reason} (expected a decoder-only model). "
        "Hint: use --tuning lora, ia3 or prompt."
    )


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "gpt_neo"])
def test_a_prefix_is_refused_where_layers_see_part_of_the_text(kind: str) -> None:
    from tiny_models import make_small

    with pytest.raises(BadInput, match="some of its layers do not attend to all earlier tokens"):
        tuning_of(_spec_of("prefix")).apply(make_small(kind, vocab_size=1000))


def _spec_of(method: str, **flags: Any) -> Any:
    from test_engine import make_spec

    return make_spec(**(METHODS[method] | flags))


def test_a_prompt_is_refused_where_peft_embeds_words_otherwise(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="prompt for m2m_100 with scale_embedding"):
        ready(tuned_job("m2m_100", "prompt", tmp_path))


def test_tied_modules_are_not_trained_as_copies(tmp_path: Path) -> None:
    for kind, module in (("gpt2", "lm_head"), ("t5-tied", "shared"), ("bart", "lm_head")):
        job = tuned_job(kind, "lora", tmp_path / kind, modules_to_save=(module,))
        with pytest.raises(BadInput, match=f"--modules_to_save: {module}, whose weights are tied"):
            ready(job)


@pytest.mark.parametrize("kind", ["gpt2", "llama-tied", "llama", "t5"])
def test_the_output_layer_gets_no_lora(kind: str, tmp_path: Path) -> None:
    """Merged, it would change the embeddings that it is tied to."""
    with pytest.raises(BadInput, match="--lora_target_modules: the output layer"):
        ready(tuned_job(kind, "lora", tmp_path, lora_target_modules=("lm_head",)))
    job = tuned_job(kind, "lora", tmp_path, lora_target_modules=("all-linear",))
    model = ready(job)
    assert not any("lm_head" in name for name, _ in job.tuning.trainable(model))
    assert sum(".lora_B." in name for name, _ in job.tuning.trainable(model)) >= 4
    engine = train(job, stirred(model), steps=1)
    checkpoint = save(job, engine, tmp_path / "run")
    assert_close(
        logits_of(job, engine.model), plain_logits(job, by_peft(checkpoint, base_folder(kind)))
    )


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_named_module_is_trained_and_saved(method: str, tmp_path: Path) -> None:
    job = tuned_job("llama", method, tmp_path, modules_to_save=("lm_head",))
    engine = train(job, ready(job), steps=2)
    checkpoint = save(job, engine, tmp_path / "run")
    saved = dict(file_tensors(checkpoint))["base_model.model.lm_head.weight"]
    begun = dict(file_tensors(base_folder("llama")))["lm_head.weight"]
    assert saved.shape == begun.shape and not torch.equal(saved, begun)
    assert_close(
        logits_of(job, engine.model), plain_logits(job, by_peft(checkpoint, base_folder("llama")))
    )
