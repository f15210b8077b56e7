"""Turn a request into all that a run needs; all problems are reported before the run starts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from workflow.config.job import JobSpec, PlannedSpec, resolve_defaults
from workflow.config.request import JobRequest
from workflow.core.checksums import find_damage
from workflow.core.errors import BadInput, Problem
from workflow.data.audit import AuditReport
from workflow.data.shapes import shape_of
from workflow.data.shapes.texts import Documents, Instructions
from workflow.data.text_format import Texts
from workflow.data.token_cache import TokenizedSplit
from workflow.distributed.device import fast_bf16
from workflow.distributed.strategy import ShardingStrategy
from workflow.distributed.world import World
from workflow.inference.choices import longest_choice
from workflow.memory.machine import Machine, this_machine
from workflow.memory.model_dims import Sizes, sizes_of
from workflow.models.families import DecoderIds, family_of
from workflow.models.hub import fetch_settings
from workflow.models.settings import ModelSettings, load_model_settings
from workflow.models.tokenizers.vocabulary import count_ids
from workflow.models.vocab_extension import VocabExtension
from workflow.runs.mount import Mount, run_name_of
from workflow.runs.resume_state import ResumePoint
from workflow.runs.status import is_requeued, read_spec, read_status
from workflow.tasks import task_for
from workflow.tasks.base import Examples, Task
from workflow.tasks.formats import text_format
from workflow.training.adapters import adopt_adapter, name_of_base, problems_of_packages
from workflow.training.compilation import problems_of_compiler
from workflow.training.judges import Judge
from workflow.training.locate import (
    Located,
    locate,
    problems_of_records,
)
from workflow.training.model_check import check_model
from workflow.training.optim import check_schedule
from workflow.training.plan import EarlierStart, plan_job, problems_of_processes
from workflow.training.prepare_data import count_examples, examples_of, prepare_data
from workflow.tuning import TuningMethod, tuning_of


@dataclass(frozen=True)
class Job:
    """A job that is ready to start, except for the model's weights, which may take minutes.

    Attributes:
        spec: the job, resolved.
        tuning: which parameters are trained.
        decoder_ids: how the model's decoder starts.
        extension: tokens to add to the model's vocabulary.
        audit: of the data.
        model_source: the model's folder, or its name on the hub; of an adapter, that of its base.
        adapter: the folder of the adapter that the job starts from, if any.
        parameters: of the model, all and those that are trained; known once it is loaded.
        base: what task.json says of an adapter's base: its name, and its digest once known.
        run_path: the run's folder, which may not exist yet.
        claim_lock: a file to lock while the run's folder is created.
        strategy: how states are sharded; None for one process in plain torch.
        request: the job as requested, within the model's limits; `resolve_defaults` fills in the
            rest.
        resume_point: the checkpoint that the run would resume from.
        max_padded_tokens: of a micro-batch, after an earlier start ran out of memory.
        recomputes: whether the model's layers can be recomputed in the backward pass.
        judges: the models that judge for --metric, by metric.
    """

    spec: PlannedSpec
    task: Task
    tuning: TuningMethod
    tokenizer: PreTrainedTokenizerBase
    decoder_ids: DecoderIds
    extension: VocabExtension | None
    audit: AuditReport
    splits: dict[str, TokenizedSplit]
    model_source: Path | str
    run_path: Path
    claim_lock: Path
    strategy: ShardingStrategy | None
    request: JobRequest
    resolve_defaults: Callable[[JobRequest], JobSpec]
    resume_point: ResumePoint | None
    max_padded_tokens: int | None = None
    recomputes: bool = True
    adapter: Path | None = None
    base: dict[str, Any] | None = None
    parameters: tuple[int, int] | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)

    @property
    def named_model(self) -> Path | str:
        """The model that the user named: an adapter, or a whole model."""
        return self.adapter or self.model_source

    @cached_property
    def examples(self) -> dict[str, Examples]:
        """The examples of each split."""
        return examples_of(self.task, self.splits, self.spec)

    @property
    def train_examples(self) -> Examples:
        return self.examples["train"]

    @property
    def data_keys(self) -> dict[str, str]:
        return {name: split.key for name, split in self.splits.items()}


def prepare(
    request: JobRequest,
    mount: Mount,
    problems: Sequence[Problem] = (),
    world: World | None = None,
    machine: Machine | None = None,
) -> Job:
    """Find and check everything, and tokenize the data.

    Args:
        problems: those of the command line, reported together with the others.
        world: the processes that will run the job.
        machine: the machine to plan for; None for this one.

    Raises:
        BadInput: with all problems of flags, names and data together.
    """
    world = world or World()
    problems = [*problems, *problems_of_processes(request, world.size)]
    problems += problems_of_packages(request)
    if machine is None:
        problems += problems_of_compiler(request)
    located = locate(request, mount, problems)
    request = adopt_adapter(located.adapter, request)
    folder = fetch_settings(located.model)
    if damage := find_damage(folder, weights=False):
        raise BadInput(damage)
    shape = shape_of(request.task, located.first)
    if shape is Documents and request.block_packing is None:
        request = dataclasses.replace(request, block_packing=True)
    try:
        settings, request = load_model_settings(
            folder, request, world.size, located.adapter, instructs=shape is Instructions
        )
        format = text_format(settings, request)
        ids = settings.decoder_ids.ended_by(format.end)
        settings = dataclasses.replace(settings, decoder_ids=ids)
        task = task_for(request, located.first).bind_tokenizer(settings.tokenizer, format)
    except BadInput as error:
        of_records = problems_of_records(located.files, request)
        raise BadInput([*error.problems, *of_records]) from error
    data = prepare_data(located.files, request, task, settings.tokenizer, mount.cache)
    task = data.task
    request = dataclasses.replace(request, classes=task.classes or None)
    texts = Texts(data.tokenizer, task.format)
    longest = _longest_target(data.splits, request, located.adapter or located.model)
    of_choices = longest_choice(texts, request.choices, request.max_new_tokens)
    resolve = partial(
        resolve_defaults,
        run_name=run_name_of(request),
        train_count=count_examples(data, request),
        longest_target=max(longest, of_choices),
        fast_bf16=fast_bf16() if machine is None else machine.on_gpu,
    )
    spec = resolve(request)
    extension = _extension(settings, data.tokenizer)
    settings = dataclasses.replace(settings, tokenizer=data.tokenizer)
    for_check = tuning_of(spec, located.adapter)  # of its own: methods keep the sizes of a model
    check_model(settings, for_check, task, data.splits["eval"], spec)
    if not spec.no_train:
        check_schedule(spec)
    earlier = _earlier_start(located, request)

    def plan() -> tuple[ShardingStrategy | None, int]:
        computing = machine or this_machine(world)
        sizes = _sizes_of(folder, spec, located.adapter)
        examples = examples_of(task, data.splits, spec)
        return plan_job(sizes, spec, examples, computing, earlier)

    strategy, positions = world.decided_by_rank_zero(plan)
    return Job(
        spec=spec.planned(positions),
        task=task,
        tuning=tuning_of(spec, located.adapter),
        adapter=located.adapter,
        base=_base_entry(spec, name_of_base(located.model, mount)),
        tokenizer=data.tokenizer,
        decoder_ids=settings.decoder_ids,
        extension=extension,
        audit=data.audit,
        splits=data.splits,
        model_source=located.model,
        run_path=located.run_path,
        claim_lock=mount.cache / "claim.lock",
        strategy=strategy,
        request=request,
        resolve_defaults=resolve,
        resume_point=located.resume_point,
        max_padded_tokens=earlier.max_padded_tokens,
        recomputes=settings.recomputes,
        judges=located.judges,
    )


def _base_entry(spec: JobSpec, name: str) -> dict[str, Any] | None:
    if not spec.has_adapter:
        return None
    return {"name": name} | ({"bits": spec.bits} if spec.bits else {})


def sizes_of_job(job: Job) -> Sizes:
    """The sizes of a job's model, with what is trained."""
    return _sizes_of(fetch_settings(job.model_source), job.spec, job.adapter)


def _sizes_of(folder: Path, spec: JobSpec, adapter: Path | None) -> Sizes:
    return sizes_of(folder, spec.dropout_rate, tuning_of(spec, adapter).apply, spec.bits)


def _extension(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase
) -> VocabExtension | None:
    """The tokens of this tokenizer that the model's vocabulary lacks, if any."""
    rows = family_of(settings.config).vocabulary_size(settings.config)
    learned, tokens = min(count_ids(settings.tokenizer), rows), count_ids(tokenizer)
    return VocabExtension(learned, tokens) if tokens > learned else None


def _earlier_start(located: Located, request: JobRequest) -> EarlierStart:
    """The constraints that an earlier start of the run left.

    `resolve_run` reports an unreadable checkpoint state. A bound set by the user overrides that of
    a start that ran out of memory.
    """
    point, computed = located.resume_point, None
    with suppress(BadInput):
        computed = point.state.computed if point and point.has_optimizer_state else None
    status = read_status(located.run_path)
    bound = status.get("micro_batch_tokens")
    starts_over = request.overwrite_output_dir and not is_requeued(status)
    if starts_over or request.micro_batch_tokens is not None or not isinstance(bound, int):
        return EarlierStart(computed)
    return EarlierStart(computed, max(1, bound))


def _longest_target(
    data: dict[str, TokenizedSplit], request: JobRequest, source: Path | str
) -> int:
    """The tokens of the longest completion.

    For evaluation alone, at least the limit of the run that the checkpoint belongs to; for any
    other model `max_target_length` if some record has no completion.
    """
    longest = max(
        int(split.targets.lengths(request.max_target_length).max()) for split in data.values()
    )
    if not request.no_train:
        return longest
    limit = read_spec(Path(source).parent).get("max_new_tokens")
    if isinstance(limit, int):
        return max(longest, limit)
    return longest if data["eval"].answered.all() else request.max_target_length
