"""Smoke test: train and generate with a small copy of the model before the run is created.

A model that transformers loads need not work; this shows in a second, not after hours in a queue.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workflow.config.job import JobSpec
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem
from workflow.data.token_cache import TokenizedSplit
from workflow.distributed.world import World
from workflow.inference.decoding import Decoding, PromptBatch
from workflow.inference.eval_shard import EvalShard
from workflow.inference.hf_generate import hf_generate
from workflow.models.configuration import small_configuration, widen_vocabulary
from workflow.models.families import family_of
from workflow.models.hub import first_line
from workflow.models.settings import ModelSettings
from workflow.models.tokenizers.vocabulary import count_ids
from workflow.tasks.base import Task
from workflow.tuning import TuningMethod

SOURCE_IDS, TARGET_IDS = 12, 6
"""The ids of each text that are used."""
TOLERANCE = 1e-3
"""Relative difference of losses in a batch and alone that rounding may cause."""


def check_model(
    settings: ModelSettings, tuning: TuningMethod, task: Task, split: TokenizedSplit, spec: JobSpec
) -> None:
    """Raise BadInput if a model of this architecture cannot train or generate as the job needs."""
    config, folder = settings.config, settings.folder
    _check_biases(spec, count_ids(settings.tokenizer))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            tokens, window = count_ids(settings.tokenizer), SOURCE_IDS + task.framing
            family_of(config).set_classes(config, task.classes)
            model = small_copy(config, tokens, window)
            model.generation_config = copy.deepcopy(settings.generation)
            settings.decoder_ids.set_in(model)
            if spec.has_adapter:  # parts to freeze may be missing
                tuning.apply(model)
            defect = _find_defect(model, task, split, spec)
    except BadInput:
        raise
    except Exception as error:  # any error of transformers is a finding
        log.debug("a small copy of the model fails", exc_info=True)
        defect = f"fails: {type(error).__name__}: {first_line(error)}"
        raise BadInput([_unfit(folder, config, defect)]) from error
    if defect is not None:
        raise BadInput([_unfit(folder, config, defect)])


def _check_biases(spec: JobSpec, tokens: int) -> None:
    beyond = [name for name in spec.logit_bias or {} if int(name) >= tokens]
    if beyond:
        found, expected = f"token id {', '.join(beyond)}", f"ids of the tokenizer, below {tokens:,}"
        raise BadInput([Problem("--logit_bias", found, expected, "correct it")])


def _unfit(folder: Path, config: PreTrainedConfig, defect: str) -> Problem:
    found = f"a {config.model_type} model whose small copy {defect}"
    hint = "choose a model of another type, or report this as a bug"
    expected = "a model that trains, and generates or scores"
    return Problem(str(folder / "config.json"), found, expected, hint)


def small_copy(config: PreTrainedConfig, tokens: int, window: int = SOURCE_IDS) -> PreTrainedModel:
    """A small model of the same architecture with random weights and `tokens` embeddings."""
    config = small_configuration(config, window)
    widen_vocabulary(config, tokens)
    model_class: Any = family_of(config).model_class(config)
    model: PreTrainedModel = model_class._from_config(config, dtype=torch.float32)
    model.eval()
    return model


def _find_defect(
    model: PreTrainedModel, task: Task, split: TokenizedSplit, spec: JobSpec
) -> str | None:
    """What is wrong with a model's losses and texts of two records; None if nothing is."""
    longest = SOURCE_IDS + task.framing
    spec = dataclasses.replace(spec, max_source_length=longest, max_target_length=TARGET_IDS)
    examples = task.examples(split, spec, trains=False)
    answered = np.flatnonzero(examples.targets.lengths)
    lengths = examples.sources.lengths[answered]
    pair = answered[np.argsort(lengths, kind="stable")[[0, -1]]] if len(answered) > 1 else answered

    def loss(*rows: Any) -> torch.Tensor:
        return task.loss(model, task.collate(examples, rows, model.config), 0.0)

    if len(pair):
        together = loss(*pair[:, None])
        together.backward()
        with torch.no_grad():
            alone = sum(float(loss(index[None])) for index in pair)
        if not abs(float(together.detach()) - alone) <= TOLERANCE * abs(alone):  # or NaN
            return "gives a record different losses in a batch and alone"
    if spec.writes_texts:
        indexes = range(min(2, len(examples)))
        prompts = PromptBatch([examples.sources[index] for index in indexes], indexes)
        few = Decoding(
            max_new_tokens=2,
            repetition_penalty=spec.repetition_penalty,
            no_repeat_ngram_size=spec.no_repeat_ngram_size,
        )
        with torch.no_grad():
            hf_generate(model, prompts, few, EvalShard(World()))
    return None
