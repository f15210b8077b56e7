"""Load a model's tokenizer and configuration for a job, without its weights."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from workflow.config.job import JOB_FLAGS
from workflow.config.request import JobRequest
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem
from workflow.models.families import ONE_PROCESS, DecoderIds, family_of
from workflow.models.folders import check_folder
from workflow.models.hub import load_config, load_generation_settings, load_tokenizer
from workflow.models.languages import set_languages
from workflow.models.tokenizers.vocabulary import needed_ids


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a model that a job needs before the weights are loaded."""

    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    generation: GenerationConfig
    decoder_ids: DecoderIds


def load_model_settings(
    folder: Path, request: JobRequest, processes: int
) -> tuple[ModelSettings, JobRequest]:
    """The settings of a folder's model, and the job with its languages and lengths resolved.

    Raises:
        BadInput: the job cannot use the model.
    """
    check_folder(folder)
    tokenizer = load_tokenizer(folder)
    config = load_config(folder, needed_ids(tokenizer))
    problems = set_languages(
        tokenizer, request.source_lang, request.target_lang, target_needed=request.writes_texts
    )
    request, too_long = _fit_lengths(request, config)
    problems += too_long
    if processes > 1 and not request.no_train and config.model_type in ONE_PROCESS:
        found = f"the model type {config.model_type} on {processes} processes"
        expected = f"one process, since {ONE_PROCESS[config.model_type]}"
        where = str(folder / "config.json")
        problems.append(Problem(where, found, expected, "add --num_processes 1"))
    if problems:
        raise BadInput(problems)
    generation = load_generation_settings(folder)
    ids = family_of(config).decoder_ids(config, generation, tokenizer)
    if ids is None:
        expected = "the id that decoding starts with"
        hint = 'add "decoder_start_token_id" from the model card'
        where = str(folder / "config.json")
        raise BadInput([Problem(where, "no decoder_start_token_id", expected, hint)])
    request = dataclasses.replace(
        request,
        source_lang=getattr(tokenizer, "src_lang", None),
        target_lang=getattr(tokenizer, "tgt_lang", None) if request.writes_texts else None,
    )
    return ModelSettings(tokenizer, config, generation, ids), request


def _fit_lengths(request: JobRequest, config: PreTrainedConfig) -> tuple[JobRequest, list[Problem]]:
    """Reduce default lengths to the model's maximum number of positions.

    Values above it that the user set are problems.
    """
    both = getattr(config, "max_position_embeddings", math.inf)
    read = getattr(config, "max_encoder_position_embeddings", both)
    written = getattr(config, "max_decoder_position_embeddings", both)
    bounds = {"max_source_length": read, "max_target_length": written, "max_new_tokens": written}
    problems = []
    fitting: dict[str, Any] = {}
    for name, positions in bounds.items():
        value, flag = getattr(request, name), JOB_FLAGS[name]
        if value is None or value <= positions or flag.only_for not in (None, request.task):
            continue
        if value == flag.default:
            log.info("reduced --%s to %d, the model's maximum", name, positions)
            fitting[name] = positions
        else:
            expected = f"at most {positions}, the model's maximum"
            problems.append(Problem(f"--{name}", str(value), expected, f"add --{name} {positions}"))
    return dataclasses.replace(request, **fitting), problems
