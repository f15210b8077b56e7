"""What does not fit together in a job, though each flag of it is as it should be."""

from collections.abc import Iterator

from workflow.config.job import JOB_FLAGS
from workflow.config.request import GREEDY_BELOW, JobRequest
from workflow.config.task_specs import TASK_SPECS
from workflow.core.errors import Problem, shorten


def contradictions(job: JobRequest) -> Iterator[Problem]:
    """The problems of flags that were asked for together."""
    yield from _of_training(job)
    yield from _of_task(job)
    if job.writes_texts:
        yield from _of_decoding(job)
    yield from _of_schedule(job)


def _of_training(job: JobRequest) -> Iterator[Problem]:
    if job.max_steps is not None and job.num_train_epochs is not None:
        found = f"{job.max_steps} together with --num_train_epochs {job.num_train_epochs:g}"
        yield Problem("--max_steps", found, "one length of the run", "keep one of the two")
    if job.no_train and job.eval_fraction is not None:
        expected = "no share where all records are evaluated (--no_train)"
        yield Problem("--eval_fraction", f"{job.eval_fraction:g}", expected, "leave it out")
    if job.offload == "all" and job.zero_stage in (1, 2):
        found = f"all with --zero_stage {job.zero_stage}"
        expected = "--zero_stage 3, which alone divides parameters"
        hint = "leave --zero_stage out, or use --offload optimizer"
        yield Problem("--offload", found, expected, hint)


def _of_task(job: JobRequest) -> Iterator[Problem]:
    """Flags that mean nothing in this task, and a range of targets that is none."""
    for name, flag in JOB_FLAGS.items():
        value = getattr(job, name)
        if flag.only_for not in (None, job.task) and value != flag.default:
            hint = f"leave it out: it is for {flag.only_for}.py"
            yield Problem(f"--{name}", shorten(value), f"a flag of {job.task}.py", hint)
    best = TASK_SPECS[job.task].best_metrics
    if job.metric_for_best_model not in best:
        found, expected = job.metric_for_best_model, f"one of {', '.join(best)}"
        yield Problem("--metric_for_best_model", found, expected, "choose one of them")
    if not job.target_min < job.target_max:
        found = f"{job.target_max:g} with --target_min {job.target_min:g}"
        yield Problem("--target_max", found, "more than that", "raise it")


def _of_decoding(job: JobRequest) -> Iterator[Problem]:
    at = f"at temperature {job.temperature:g}"
    greedy = f"where decoding is greedy (temperature below {GREEDY_BELOW})"
    if job.num_beams > 1 and not job.greedy:
        hint = "keep one of the two: beams are not drawn"
        expected = f"a temperature below {GREEDY_BELOW} with beams"
        yield Problem("--num_beams", f"{job.num_beams} {at}", expected, hint)
    elif job.num_beams > 1 and job.n_samples > job.num_beams:
        found = f"{job.n_samples} of {job.num_beams} beams"
        yield Problem("--n_samples", found, "at most --num_beams", "raise --num_beams")
    elif job.greedy and job.num_beams == 1 and job.n_samples > 1:
        hint = "raise --temperature, or every sample would be the same"
        yield Problem("--n_samples", f"{job.n_samples} {at}", f"1 {greedy}", hint)
    for name in ("top_k", "top_p"):
        value = getattr(job, name)
        if job.greedy and value is not None:
            hint = "leave it out, or raise --temperature"
            yield Problem(f"--{name}", f"{value} {at}", f"nothing {greedy}", hint)
    if job.max_new_tokens is not None and job.min_new_tokens > job.max_new_tokens:
        found = f"{job.min_new_tokens} with --max_new_tokens {job.max_new_tokens}"
        hint = "lower it, or raise --max_new_tokens"
        yield Problem("--min_new_tokens", found, "no more than that", hint)


def _of_schedule(job: JobRequest) -> Iterator[Problem]:
    by_default = job.lr_scheduler_type is None and job.optim == "adafactor"
    if job.lr_scheduler_type != "constant" and not by_default:
        return
    for name in ("warmup_steps", "lr_scheduler_kwargs"):
        if value := getattr(job, name):
            expected = "nothing with the constant schedule, which ignores it"
            hint = "leave it out, or choose --lr_scheduler_type constant_with_warmup or another"
            yield Problem(f"--{name}", shorten(value), expected, hint)
