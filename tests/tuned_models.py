"""Tiny models of many types with each kind of adapter, for the tests of tuning.

Everything is done in this process: jobs on a few records, engines, and folders as runs write them.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from conftest import BERT_TINY, GPT_TINY, T5_TINY, make_t5, write_hub_folder
from peft import PeftModel
from test_engine import prepared
from tiny_models import (
    IDS,
    WITH_T5_TOKENIZER,
    add_tokenizer,
    make_family,
    make_small,
    make_t5gemma,
)
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from workflow import make_job
from workflow.config.job import PlannedSpec, resolve_defaults
from workflow.config.templates import PLAIN
from workflow.data.text_format import ContinuedText, SeparateTexts
from workflow.distributed.world import World
from workflow.models.families import DecoderIds, family_of
from workflow.models.hub import load_tokenizer
from workflow.models.loading import held_tensors, save_settings
from workflow.models.safetensors_writer import plan_files, write_tensors
from workflow.models.state_dict import file_names
from workflow.models.task_file import task_content
from workflow.runs.checkpoint import CheckpointContents, checkpoint_folder, write_checkpoint
from workflow.tasks.label_scoring import LabelScoring
from workflow.tasks.seq2seq import Seq2Seq
from workflow.training.engines.single import SingleProcessEngine
from workflow.training.prepare import Job
from workflow.training.setup import make_engine, ready_model, weights_in_files
from workflow.training.step import (
    PlannedStep,
    StepOutcome,
    StepPlanner,
    add_gradients,
    finish_step,
)
from workflow.tuning import tuning_of

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora", "lora_r": 4, "lora_dropout": 0.0},
    "dora": {"tuning": "lora", "lora_r": 2, "lora_dropout": 0.0, "use_dora": True},
    "ia3": {"tuning": "ia3"},
    "prompt": {"tuning": "prompt", "num_virtual_tokens": 3},
    "prefix": {"tuning": "prefix", "num_virtual_tokens": 3},
}
ENCODER_DECODERS = ("t5", "t5-tied", "mt5", "bart", "pegasus", "marian", "m2m_100", "t5gemma")
DECODERS = ("gpt2", "llama", "llama-tied", "opt", "gemma", "qwen2", "qwen3", "gpt_neox", "phi3")
ENCODERS = (
    "bert", "roberta", "distilbert", "deberta-v2", "electra", "modernbert", "albert", "camembert",
)  # fmt: skip
SCALED = ("m2m_100",)
"""Types for which peft leaves out the factor of the embeddings, so that prompts are refused."""
KINDS = (*ENCODER_DECODERS, *DECODERS, *ENCODERS)
WITH_ALL = ("t5", "bart", "t5gemma", "gpt2", "llama", "bert", "deberta-v2")
"""Types that every run of the tests tries with all methods; others with LoRA, or by test_slow."""


def cases(*kinds: str, methods: Sequence[str] = tuple(METHODS)) -> list[Any]:
    """All pairs of type and method that are allowed, as parameters."""
    return [
        pytest.param(kind, method, marks=() if kind in WITH_ALL or method == "lora" else SLOW)
        for kind in kinds or KINDS
        for method in methods
        if (method != "prefix" or kind in DECODERS) and (method != "prompt" or kind not in SCALED)
    ]


SLOW = pytest.mark.slow
CASES = cases()

LENGTHS = ((4, 2), (1, 6), (9, 1), (2, 1), (2, 9), (7, 3), (5, 5))
"""Words of prompts and completions."""
ALL = range(len(LENGTHS))
WORDS = ["add", "one", "house", "yes", "the", "number", "man", "write", "no"]


@cache
def base_folder(kind: str) -> Path:
    """The folder of a random model of a type; that of an encoder has no head, as on the hub."""
    folder = Path(mkdtemp()) / kind
    if kind in ("t5", "t5-tied"):
        write_hub_folder(make_t5(own_head=kind == "t5"), folder, "safetensors")
    elif kind == "t5gemma":
        make_t5gemma(folder)
    elif kind in WITH_T5_TOKENIZER:
        make_family(kind, folder)
    elif kind in ENCODER_DECODERS:
        make_small(kind, **IDS, encoder_layerdrop=0.0).save_pretrained(folder)
        add_tokenizer(folder)
    else:
        _write_one_stack(kind, folder)
    return folder


def _write_one_stack(kind: str, folder: Path) -> None:
    changes = {"tie_word_embeddings": kind == "llama-tied"} if kind.startswith("llama") else {}
    changes |= {"num_key_value_heads": 2} if kind.startswith("llama") else {}
    model = make_small(kind.removesuffix("-tied"), vocab_size=1000, **changes)
    family = family_of(model.config)
    folder.mkdir(parents=True)
    tensors = {
        name: tensor for name, tensor in file_names(model).items()
        if not family.is_head(model, name)
    }  # fmt: skip
    held = held_tensors(tensors)
    write_tensors(folder, plan_files("model", held), held)
    if family.generates:
        model.generation_config.eos_token_id = 999
        model.generation_config.pad_token_id = 0
    save_settings(model, load_tokenizer(GPT_TINY if family.generates else BERT_TINY), folder)


def _spec(kind: str, **flags: Any) -> PlannedSpec:
    values = {
        "dropout_rate": 0.0, "train_batch_size": len(LENGTHS), "learning_rate": 1e-2,
        "max_steps": 10, "warmup_steps": 0, "bf16": False, "max_grad_norm": 0,
    }  # fmt: skip
    task = "clf" if kind in ENCODERS else "seq2seq"
    request = make_job(task, model_init_name="x", data_name="y", **(values | flags))
    spec = resolve_defaults(request, "run", len(LENGTHS), 12, fast_bf16=True)
    return spec.planned(64)


def tuned_job(kind: str, method: str, folder: Path, **flags: Any) -> Job:
    """A job that trains a model of a type by a method of METHODS, or "full", on a few records."""
    spec = _spec(kind, **(METHODS.get(method, {}) | flags))
    texts = [[" ".join(WORDS[:count]) for count in pair] for pair in LENGTHS]
    records: list[dict[str, Any]] = [{"prompt": a, "completion": b} for a, b in texts]
    task: Seq2Seq | LabelScoring
    if kind in ENCODERS:
        tokenizer = AutoTokenizer.from_pretrained(BERT_TINY)
        task = LabelScoring(PLAIN, ("no", "yes"), 0, 9)
        task = task.bind_tokenizer(tokenizer, SeparateTexts(None))
        records = [{"input": a, "target": len(b) % 10} for a, b in texts]
    elif kind in DECODERS:
        tokenizer = AutoTokenizer.from_pretrained(GPT_TINY)
        task = Seq2Seq(ContinuedText.of(tokenizer, PLAIN))
    else:
        tokenizer = AutoTokenizer.from_pretrained(T5_TINY)
        task = Seq2Seq(SeparateTexts(0))
    folder.mkdir(parents=True, exist_ok=True)
    job = prepared(spec, task, tokenizer, records, folder)
    splits = {"train": job.splits["train"], "eval": job.splits["train"]}
    return dataclasses.replace(
        job,
        tuning=tuning_of(spec),
        splits=splits,
        decoder_ids=DecoderIds(2) if kind == "t5gemma" else job.decoder_ids,
        model_source=base_folder(kind),
        base={"name": "base"} if spec.has_adapter else None,
    )


def ready(job: Job, checkpoint: Path | None = None) -> Any:
    return ready_model(job, Path(job.model_source), checkpoint)


def stirred(model: Any, seed: int = 0) -> Any:
    """A model whose trained parameters are not at their first values, where gradients are zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.empty(parameter.shape).normal_(0, 0.2, generator=generator)
            parameter.data += noise
    return model


def engine_of(job: Job, model: Any) -> SingleProcessEngine:
    engine = make_engine(job, model, World(), weights_in_files(job, model, None))
    assert isinstance(engine, SingleProcessEngine)
    return engine


def take_step(job: Job, engine: SingleProcessEngine, step: int) -> StepOutcome:
    plan = StepPlanner.of(job, engine.model, World()).plan(step)
    planned = PlannedStep.of(job, plan, step, engine.model.config, rank=0)
    losses = add_gradients(job, engine, planned, World())
    return finish_step(job, engine, planned, losses, World())


def train(job: Job, model: Any, steps: int = 3) -> SingleProcessEngine:
    engine = engine_of(job, model)
    for step in range(1, steps + 1):
        take_step(job, engine, step)
    return engine


def gradient_of(job: Job, model: Any, **changes: Any) -> dict[str, torch.Tensor]:
    """The gradient of a step, with some flags changed."""
    job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, **changes))
    engine = engine_of(job, model)
    plan = StepPlanner.of(job, engine.model, World()).plan(1)
    planned = PlannedStep.of(job, plan, 1, engine.model.config, rank=0)
    add_gradients(job, engine, planned, World())
    found = {n: p.grad.clone() for n, p in engine.master.named_parameters() if p.grad is not None}
    engine.master.zero_grad(set_to_none=True)
    return found


def save(job: Job, engine: SingleProcessEngine, run: Path, step: int = 1) -> Path:
    """The folder of a checkpoint, as runs write it."""
    run.mkdir(parents=True, exist_ok=True)
    task = task_content(job.spec, family_of(engine.model.config).name)
    contents = CheckpointContents(
        stem=job.tuning.stem,
        tensors=engine.tensors(),
        optimizer_state=engine.optimizer_state(),
        write_settings=lambda to: job.tuning.write_settings(
            engine.model, job.tokenizer, to, base=str(job.model_source)
        ),
        state={},
        task=task | ({} if job.base is None else {"base": job.base}),
    )
    write_checkpoint(run, step, contents, World())
    return checkpoint_folder(run, step)


def logits_of(job: Job, model: Any, indexes: Any = ALL) -> list[torch.Tensor]:
    """Our logits of each record, all in one batch."""
    examples, family = job.train_examples, family_of(model.config)
    model.eval()
    with torch.no_grad():
        rows = tuple(torch.tensor([index]).numpy() for index in indexes)
        batch = job.task.collate(examples, rows, model.config)
        logits = family.target_logits(model, batch).float()
    counts = [len(examples.targets[i]) if family.generates else 1 for i in indexes]
    return list(logits.split(counts))


def plain_logits(job: Job, model: Any, indexes: Any = ALL) -> list[torch.Tensor]:
    """The logits that a model of transformers or peft has for each record alone."""
    split, found = job.splits["train"], []
    config = model.config
    model.eval()
    for index in indexes:
        source, target = split.sources.row(index).tolist(), split.targets.row(index).tolist()
        with torch.no_grad():
            if config.is_encoder_decoder:
                read = torch.tensor([[config.decoder_start_token_id, *target[:-1]]])
                ids = torch.tensor([source])
                logits = model(input_ids=ids, decoder_input_ids=read).logits[0]
            elif family_of(config).generates:
                logits = model(input_ids=torch.tensor([source + target])).logits[0]
                logits = logits[-len(target) - 1 : -1]
            else:
                logits = model(input_ids=torch.tensor([source])).logits
        found.append(logits)
    return found


def by_transformers(folder: Path) -> Any:
    """The model of a folder as transformers loads it, with a head of two outputs for an encoder."""
    config = load_config(folder)
    model_class: Any = family_of(config).model_class(config)
    if not family_of(config).generates:
        model_class = AutoModelForSequenceClassification
    return model_class.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def load_config(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder)
    if config.model_type in ("t5gemma", "t5gemma2"):
        config.decoder_start_token_id = config.decoder.bos_token_id
    if not family_of(config).generates:
        config.num_labels = 2
    return config


def by_peft(folder: Path, base: Path) -> Any:
    """The adapter of a folder on its base, as peft loads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for what version 6 removes
        return PeftModel.from_pretrained(by_transformers(base), str(folder)).eval()


def assert_close(found: list[torch.Tensor], wanted: list[torch.Tensor], most: float = 1e-5) -> None:
    """Logits agree, relative to the largest of all."""
    largest = max(float(one.abs().max()) for one in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).abs().max()) <= most * largest
