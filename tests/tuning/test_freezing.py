"""--freeze: the parameters of a part stay as the file has them, also in bfloat16."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_data
from safetensors.torch import load_file
from tiny_models import add_one_stack
from tuned_models import LENGTHS, engine_of, gradient_of, ready, take_step, tuned_job

from workflow import make_job, run_job
from workflow.core.errors import BadInput
from workflow.models.state_dict import file_tensors
from workflow.runs.mount import Mount

T5_BODY = r"(encoder|decoder)\.|shared\."
PARTS = [
    ("t5", "embeddings", r"shared\."),
    ("t5", "encoder", r"encoder\."),
    ("t5", "decoder", r"decoder\."),
    ("t5", "body", T5_BODY),
    ("t5", "bottom:1", r"shared\.|(encoder|decoder)\.block\.0\."),
    ("t5", r"SelfAttention\.q", r".*SelfAttention\.q"),
    ("gpt2", "embeddings", r"transformer\.w[tp]e\."),
    ("gpt2", "bottom:1", r"transformer\.w[tp]e\.|transformer\.h\.0\."),
    ("gpt2", r"ln_", r".*ln_"),
    ("llama", "body", r"model\."),
    ("llama", "embeddings", r"model\.embed_tokens"),
    ("opt", "embeddings", r"model\.decoder\.(embed|project_in)"),
    ("bert", "embeddings", r"bert\.embeddings\."),
    ("bert", "body", r"bert\.(embeddings|encoder)\."),
    ("bert", "bottom:1", r"bert\.(embeddings|encoder\.layer\.0)\."),
    ("bert", r"query|key", r".*(query|key)"),
    ("deberta-v2", "body", r"deberta\."),
    ("distilbert", "embeddings", r"distilbert\.embeddings"),
    ("modernbert", "embeddings", r"model\.embeddings"),
]


@pytest.mark.parametrize(("kind", "part", "pattern"), PARTS)
def test_a_part_is_frozen_and_the_rest_learns(
    kind: str, part: str, pattern: str, tmp_path: Path
) -> None:
    job = tuned_job(kind, "full", tmp_path, freeze=(part,))
    model = ready(job)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    frozen = {name for name, one in model.named_parameters() if not one.requires_grad}
    assert frozen == {name for name in before if re.match(pattern, name)}
    assert frozen
    engine = engine_of(job, model)
    for step in (1, 2):
        take_step(job, engine, step)
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert moved == before.keys() - frozen
    states = {name.rpartition(".")[0] for name in engine.optimizer_state()}
    assert not states & frozen
    assert engine.tensors().keys() == dict(job.tuning.saved(model)).keys() >= moved


def test_frozen_layers_at_the_bottom_are_not_recomputed(tmp_path: Path) -> None:
    """Nor does the backward pass go through them."""
    job = tuned_job("t5", "full", tmp_path, freeze=("bottom:1",))
    model = ready(job)
    wanted = gradient_of(job, model)
    calls: list[int] = []
    for number, block in enumerate(model.encoder.block):
        norm = block.layer[0].layer_norm
        norm.register_forward_hook(lambda *_, number=number: calls.append(number))
    found = gradient_of(job, model, gradient_checkpointing=True, micro_batch_tokens=1)
    assert calls == [0, 1, 1] * len(LENGTHS)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "parts", [("encoder", "decoder"), ("embeddings", "bottom:1"), ("wo", "SelfAttention.k")]
)
def test_parts_add_up(parts: tuple[str, ...], tmp_path: Path) -> None:
    alone: set[str] = set()
    for number, one in enumerate([(part,) for part in parts] + [parts]):
        job = tuned_job("t5", "full", tmp_path / str(number), freeze=one)
        frozen = {name for name, p in ready(job).named_parameters() if not p.requires_grad}
        if one != parts:
            alone |= frozen
    assert frozen == alone


@pytest.mark.parametrize(
    ("kind", "freeze", "message"),
    [
        ("t5", ("emcoder",), "--freeze: emcoder (expected embeddings, encoder, decoder, body"),
        ("gpt2", ("encoder",), "it is no part of this model, nor matches a name"),
        ("bert", ("decoder",), "it is no part of this model, nor matches a name"),
        ("t5", ("bottom:0",), "Hint: the model has 2 layers"),
        ("t5", ("bottom:3",), "Hint: the model has 2 layers"),
        ("bert", ("bottom:2",), "Hint: the model has 1 layers"),
        ("t5", ("(",), "it is no regular expression: missing ), unterminated subpattern"),
        ("t5", (".",), "which freezes all parameters of this model"),
        ("gpt2", ("body",), "which freezes all parameters of this model"),
        ("t5", ("body", "lm_head"), "body lm_head, which freezes all parameters of this model"),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    kind: str, freeze: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as raised:
        ready(tuned_job(kind, "full", tmp_path, freeze=freeze))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "part"), [("small", "encoder"), ("gpt", "bottom:1"), ("bert", "body")]
)
def test_frozen_parameters_are_bit_equal_to_the_file_in_bf16(
    mount: Mount, name: str, part: str
) -> None:
    """The model computes in bfloat16; the checkpoint has what the file had, also after a resume."""
    add_one_stack(mount)
    task, data = ("clf", "scores") if name == "bert" else ("seq2seq", "sums")
    records: list[dict[str, Any]] = [
        {"input": f"{number} yes", "target": number % 2} for number in range(12)
    ]
    write_data(mount, "scores", records, records[:3])
    flags: dict[str, Any] = {
        "freeze": (part,), "bf16": True, "train_batch_size": 4, "learning_rate": 1e-2,
        "eval_on_start": False, "dropout_rate": 0, "save_steps": 1, "save_total_limit": 3,
        "warmup_steps": 0,
    }  # fmt: skip
    run = run_job(make_job(task, model_init_name=name, data_name=data, max_steps=2, **flags), mount)
    given = dict(file_tensors(mount.models / name))
    kept = 0
    for step in (1, 2):
        saved = dict(file_tensors(run / f"checkpoint-{step}"))
        moments = {
            one.rpartition(".")[0]
            for file in (run / "checkpoint-2" / "resume").glob("optimizer*.safetensors")
            for one in load_file(file)
        }
        for key, tensor in saved.items():
            if key in given and key not in moments:
                assert torch.equal(tensor, given[key]), key
                kept += int(not torch.equal(tensor, tensor.bfloat16().float()))
            elif key in given:
                assert not torch.equal(tensor, given[key]), key
        assert moments < saved.keys()
    assert kept > 0
    assert json.loads((run / "training_args.json").read_text())["freeze"] == [part]
