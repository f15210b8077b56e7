"""Load a model's tokenizer and configuration for a job, without its weights."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from workflow.config.job import JOB_FLAGS
from workflow.config.request import JobRequest
from workflow.config.task_specs import CONTINUED, OPENING
from workflow.config.templates import ALPACA, CHAT, PLAIN
from workflow.core.console import log
from workflow.core.errors import BadInput, Problem
from workflow.models.families import ONE_PROCESS, DecoderIds, family_of
from workflow.models.folders import check_folder
from workflow.models.hub import load_config, load_generation_settings, load_tokenizer
from workflow.models.languages import set_languages
from workflow.models.task_file import adopt_task
from workflow.models.tokenizers.vocabulary import needed_ids


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a model that a job needs before the weights are loaded."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    generation: GenerationConfig
    decoder_ids: DecoderIds

    @property
    def recomputes(self) -> bool:
        """Whether the model's layers can be recomputed in the backward pass."""
        return family_of(self.config).dimensions(self.config).modules.recomputes


def load_model_settings(
    folder: Path,
    request: JobRequest,
    processes: int,
    named: Path | None = None,
    instructs: bool = False,
) -> tuple[ModelSettings, JobRequest]:
    """The settings of a folder's model, and the job with its languages and lengths resolved.

    Args:
        named: the folder of the adapter that the job starts from, if any.
        instructs: whether the records are instructions, which have another template by default.

    Raises:
        BadInput: the job cannot use the model.
    """
    check_folder(folder)
    request, contradicting = adopt_task(named or folder, request)
    tokenizer = load_tokenizer(folder)
    config = load_config(folder, needed_ids(tokenizer))
    problems = set_languages(
        tokenizer, request.source_lang, request.target_lang, target_needed=request.writes_texts
    )
    problems += contradicting
    family = family_of(config)
    if request.writes_texts and not family.generates:
        found = f"the model type {config.model_type}, an encoder, which writes no texts"
        hint = "use it with clf.py, or choose an encoder-decoder or a decoder-only model"
        problems.append(Problem(str(folder / "config.json"), found, "a model that generates", hint))
    continues = family.joins_texts and family.generates
    usual = ALPACA if instructs else CHAT if tokenizer.chat_template else PLAIN
    usual = PLAIN if request.learns_text else usual
    template = request.template or (usual if continues else PLAIN)
    request = dataclasses.replace(request, template=template)
    if template == CHAT and not tokenizer.chat_template:
        found, hint = (
            "a model without a chat template",
            "use --template plain, or an instruct model",
        )
        problems.append(Problem("--template chat", found, "a model with a chat template", hint))
    request, too_long = fit_lengths(request, config)
    problems += too_long
    if request.gradient_checkpointing and not family.dimensions(config).modules.recomputes:
        found = f"set for the model type {config.model_type}"
        expected = "a model type whose layers transformers can recompute"
        problems.append(Problem("--gradient_checkpointing", found, expected, "remove it"))
    if processes > 1 and not request.no_train and config.model_type in ONE_PROCESS:
        found = f"the model type {config.model_type} on {processes} processes"
        expected = f"one process, since {ONE_PROCESS[config.model_type]}"
        where = str(folder / "config.json")
        problems.append(Problem(where, found, expected, "add --num_processes 1"))
    if problems:
        raise BadInput(problems)
    generation = load_generation_settings(folder)
    ids = family.decoder_ids(config, generation, tokenizer)
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
    return ModelSettings(folder, tokenizer, config, generation, ids), request


def fit_lengths(request: JobRequest, config: PreTrainedConfig) -> tuple[JobRequest, list[Problem]]:
    """Reduce default lengths to the model's maximum number of positions.

    Values above it that the user set are problems. Where prompt and completion are joined, they
    share the positions: completions get their default length, but at most half of them.
    """
    family = family_of(config)
    read, written = family.max_positions(config)
    read -= request.virtual_positions
    limit, other = "the model's maximum", ""
    if request.learns_text:
        room = max(1, int(min(read, 1 << 30)) - OPENING - 1)
        tokens = request.max_new_tokens or min(CONTINUED, room)
        request, written = dataclasses.replace(request, max_new_tokens=tokens), min(written, room)
    elif family.joins_texts and request.writes_texts and read < math.inf:
        target, default = request.max_target_length, JOB_FLAGS["max_target_length"].default
        written = min(target, read // 2) if target == default else min(target, read - 1)
        written = max(written, min(request.max_new_tokens or 0, read - 1))
        read -= written
        limit = f"as prompt and completion share the model's {read + written} positions"
        other = f", or reduce --max_target_length, which is {written}"
    bounds = {"max_source_length": read, "max_target_length": written, "max_new_tokens": written}
    if request.learns_text and family.joins_texts:
        del bounds["max_target_length"]  # which plain text does not have there
    problems = []
    fitting: dict[str, Any] = {}
    for name, positions in bounds.items():
        value, flag = getattr(request, name), JOB_FLAGS[name]
        if value is None or value <= positions or flag.only_for not in (None, request.task):
            continue
        if value == flag.default:
            log.info("reduced --%s to %d, %s", name, positions, limit)
            fitting[name] = positions
        else:
            hint = f"add --{name} {positions}" + (other if name == "max_source_length" else "")
            expected = f"at most {positions}, {limit}"
            problems.append(Problem(f"--{name}", str(value), expected, hint))
    return dataclasses.replace(request, **fitting), problems
