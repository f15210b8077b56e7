"""Flags of a job that are valid alone but contradict each other."""

from collections.abc import Iterator

from workflow.config.job import JOB_FLAGS
from workflow.config.metric_kinds import problems_of_metrics
from workflow.config.request import GREEDY_BELOW, JobRequest
from workflow.core.errors import Problem, shorten


def contradictions(job: JobRequest) -> Iterator[Problem]:
    """Yield a problem for each contradiction among a job's flags."""
    yield from _of_training(job)
    yield from _of_tuning(job)
    yield from _of_task(job)
    if job.writes_texts:
        yield from _of_decoding(job)
    yield from _of_schedule(job)


def _of_training(job: JobRequest) -> Iterator[Problem]:
    if job.max_steps is not None and job.num_train_epochs is not None:
        found = f"{job.max_steps} with --num_train_epochs {job.num_train_epochs:g}"
        yield Problem("--max_steps", found, "only one of them", "remove one")
    if job.no_train and job.init == "random":
        hint = "remove --init, or --no_train"
        yield Problem("--init", "random with --no_train", "weights to evaluate", hint)
    if job.no_train and job.eval_fraction is not None:
        found = f"{job.eval_fraction:g} with --no_train, which evaluates all eval records"
        yield Problem("--eval_fraction", found, "no value", "remove it")
    if job.offload == "all" and job.zero_stage in (1, 2):
        found = f"all with --zero_stage {job.zero_stage}"
        expected = "--zero_stage 3, the only stage that shards parameters"
        hint = "remove --zero_stage, or use --offload optimizer"
        yield Problem("--offload", found, expected, hint)


_LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora")
_USED_BY: dict[str, tuple[str, ...]] = {
    "freeze": ("full",),
    **dict.fromkeys(_LORA, ("lora",)),
    "modules_to_save": ("lora", "ia3", "prompt", "prefix"),
    "num_virtual_tokens": ("prompt", "prefix"),
    "prompt_tuning_init_text": ("prompt",),
    "load_in_8bit": ("lora", "ia3", "prompt", "prefix"),
    "load_in_4bit": ("lora", "ia3", "prompt", "prefix"),
}
"""The tuning methods that use a flag; without --tuning it may be that of the model."""


def _of_tuning(job: JobRequest) -> Iterator[Problem]:
    for name, methods in _USED_BY.items():
        value = getattr(job, name)
        unused = job.tuning is not None and job.tuning not in methods
        if unused and value != JOB_FLAGS[name].default:
            found = f"{_shown(value)} with --tuning {job.tuning}, which ignores it"
            yield Problem(f"--{name}", found, f"--tuning {' or '.join(methods)}", "remove it")
    if job.load_in_8bit and job.load_in_4bit:
        yield Problem("--load_in_8bit", "set with --load_in_4bit", "only one of them", "remove one")
    if job.has_adapter and job.add_missing_tokens:
        found = f"set with --tuning {job.tuning}, which trains no embeddings"
        yield Problem("--add_missing_tokens", found, "--tuning full", "remove it")
    if job.has_adapter and job.torch_compile:
        found = f"set with --tuning {job.tuning}"
        yield Problem("--torch_compile", found, "--tuning full", "remove it")


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value).lower()


def _of_task(job: JobRequest) -> Iterator[Problem]:
    """Flags of another task, and an empty range of targets."""
    for name, flag in JOB_FLAGS.items():
        value = getattr(job, name)
        if flag.only_for not in (None, job.task) and value != flag.default:
            found = f"a flag of {flag.only_for}.py"
            yield Problem(f"--{name}", found, f"flags of {job.task}.py", "remove it")
    yield from problems_of_metrics(job.task, job.metric, job.metric_for_best_model)
    if not job.target_min < job.target_max:
        found = f"{job.target_max:g} with --target_min {job.target_min:g}"
        yield Problem("--target_max", found, "more than --target_min", "increase it")


def _of_decoding(job: JobRequest) -> Iterator[Problem]:
    at = f"at temperature {job.temperature:g}"
    if job.num_beams > 1 and not job.greedy:
        hint = "remove one of them; beam search does not sample"
        expected = f"a temperature below {GREEDY_BELOW} with beam search"
        yield Problem("--num_beams", f"{job.num_beams} {at}", expected, hint)
    elif job.num_beams > 1 and job.n_samples > job.num_beams:
        found = f"{job.n_samples} of {job.num_beams} beams"
        yield Problem("--n_samples", found, "at most --num_beams", "increase --num_beams")
    elif job.greedy and job.num_beams == 1 and job.n_samples > 1:
        hint = "increase --temperature; greedy samples are all the same"
        yield Problem("--n_samples", f"{job.n_samples} {at}", "1 with greedy decoding", hint)
    yield from _of_beam_groups(job)
    for name in ("top_k", "top_p", "min_p", "typical_p"):
        value = getattr(job, name)
        if job.greedy and value is not None:
            hint = f"remove it, or set --temperature to {GREEDY_BELOW} or more"
            yield Problem(f"--{name}", f"{value} {at}", "no value with greedy decoding", hint)
    if job.best_of is not None and job.greedy:
        hint = f"remove it, or set --temperature to {GREEDY_BELOW} or more"
        yield Problem("--best_of", f"{job.best_of} {at}", "no value with greedy decoding", hint)
    elif job.best_of is not None and job.best_of <= job.n_samples:
        found = f"{job.best_of} with --n_samples {job.n_samples}"
        yield Problem("--best_of", found, "more than --n_samples", "increase it, or remove it")
    if job.metric_for_best_model == "self_bleu" and job.n_samples == 1:
        found = "self_bleu with one sample per record, of which it is undefined"
        yield Problem("--metric_for_best_model", found, "several samples", "set --n_samples")
    if job.choices is not None and job.min_new_tokens:
        found = f"{job.min_new_tokens} with --choices, whose texts end where they end"
        yield Problem("--min_new_tokens", found, "no value", "remove it")
    if job.max_new_tokens is not None and job.min_new_tokens > job.max_new_tokens:
        found = f"{job.min_new_tokens} with --max_new_tokens {job.max_new_tokens}"
        hint = "reduce it, or increase --max_new_tokens"
        yield Problem("--min_new_tokens", found, "at most --max_new_tokens", hint)


def _of_beam_groups(job: JobRequest) -> Iterator[Problem]:
    groups, penalty = job.num_beam_groups, job.diversity_penalty
    if groups > 1 and job.num_beams % groups:
        expected = "a number that divides --num_beams"
        hint = "change one of them; all groups have the same number of beams"
        yield Problem("--num_beam_groups", f"{groups} of {job.num_beams} beams", expected, hint)
    elif groups > job.n_samples:
        found = f"{groups} with --n_samples {job.n_samples}, which keeps no text of some groups"
        yield Problem("--num_beam_groups", found, "at most --n_samples", "increase --n_samples")
    if groups > 1 and not penalty:
        found = f"{penalty:g} with --num_beam_groups {groups}, whose groups would all be the same"
        yield Problem("--diversity_penalty", found, "a number above 0", "set it, for example to 1")
    if groups == 1 and penalty:
        found = f"{penalty:g} with one group of beams, which ignores it"
        hint = "remove it, or set --num_beam_groups"
        yield Problem("--diversity_penalty", found, "no value", hint)


def _of_schedule(job: JobRequest) -> Iterator[Problem]:
    by_default = job.lr_scheduler_type is None and job.optim == "adafactor"
    if job.lr_scheduler_type != "constant" and not by_default:
        return
    for name in ("warmup_steps", "lr_scheduler_kwargs"):
        if value := getattr(job, name):
            found = f"{shorten(value)} with the constant schedule, which ignores it"
            hint = "remove it, or use e.g. --lr_scheduler_type constant_with_warmup"
            yield Problem(f"--{name}", found, "no value", hint)
