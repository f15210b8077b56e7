"""The state of runs, from their folders and their schedulers."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.text import Text

from workflow.cluster.job_record import LOG, JobRecord, folder_of, read_record, read_records
from workflow.cluster.registry import state_of
from workflow.cluster.scheduler import JobState
from workflow.core.errors import BadInput, Problem, nearest, shorten
from workflow.core.tables import table
from workflow.runs.lock import is_fresh
from workflow.runs.mount import Mount
from workflow.runs.status import TRAIN_LOG, read_spec, read_status, status_files

LINES = 10
"""Log lines shown by `status`."""
STYLES = {"done": "green", "running": "cyan", "failed": "red", "lost": "red", "unknown": "yellow"}
"""Colours of states in terminals."""


@dataclass(frozen=True)
class Overview:
    """The state and progress of a run.

    Attributes:
        word: pending, starting, running, saved, done, failed, cancelled, unknown (its scheduler is
            unreachable) or lost (recorded as running, but no process runs it).
        reason: details of the state, or "".
        logged: the last line of train_log.jsonl.
        job: the job and its nodes, as printed.
        restarts: number of restarts.
        seconds_left: estimate for the remaining steps at the current speed, without evaluations
            and saves; None if unknown.
        serves: whether it is a server, which has no folder.
    """

    run_name: str
    word: str
    reason: str = ""
    step: int | None = None
    max_steps: int | None = None
    logged: Mapping[str, Any] = field(default_factory=dict)
    job: str = ""
    restarts: int = 0
    seconds_left: float | None = None
    serves: bool = False


def inspect_run(mount: Mount, run_name: str) -> Overview:
    """Inspect a run's folder and job; raises BadInput if it has neither."""
    folder, record = mount.models / run_name, read_record(folder_of(mount, run_name))
    if record is not None and record.serves:
        return _inspect_server(record)
    status = read_status(folder)
    if not status and record is None:
        known = run_names(mount)
        newest = f"use e.g. {known[-1]}; `list` shows all" if known else "submit a job"
        hint = nearest(run_name, known, newest)
        where, expected = f"run {shorten(run_name)}", f"a run in {mount.models}"
        raise BadInput([Problem(where, "does not exist", expected, hint)])
    state = None if record is None or _is_over(status, record) else state_of(record)
    word, reason = judge(*_newer(status, record, state), _is_held(folder, record, state))
    logged = _last_logged(folder / TRAIN_LOG)
    step, max_steps = status.get("step"), status.get("max_steps")
    if word == "running" and logged and step is not None:
        step = max(int(step), int(logged.get("step", 0)))
    title = record.title if record else _started_by_hand(status)
    job = " on ".join([title, *(state.nodes if state else ())])
    restarts = max(int(status.get("restarts") or 0), state.restarts if state else 0)
    seen = Overview(run_name, word, reason, step, max_steps, logged, job, restarts)
    return replace(seen, seconds_left=_seconds_left(seen, read_spec(folder)))


def _inspect_server(record: JobRecord) -> Overview:
    """What a server's scheduler says; only its log shows how it ended."""
    state = state_of(record)
    word = "ended" if state.word == "gone" else state.word
    job = " on ".join([record.title, *state.nodes])
    return Overview(
        record.run_name, word, state.reason, job=job, restarts=state.restarts, serves=True
    )


def _seconds_left(overview: Overview, spec: Mapping[str, Any]) -> float | None:
    if overview.word != "running" or overview.step is None or overview.max_steps is None:
        return None
    try:
        examples = spec["train_batch_size"] * spec["gradient_accumulation_steps"]
        per_second = overview.logged["examples_per_second"]
        return float((overview.max_steps - overview.step) * examples / per_second)
    except (KeyError, TypeError, ZeroDivisionError):  # no step logged yet
        return None


def _newer(
    status: dict[str, Any], record: JobRecord | None, state: JobState | None
) -> tuple[dict[str, Any], JobState | None]:
    """Drop the status or the job's state if the other is newer and supersedes it."""
    if record is None or state is None:
        return status, state
    has_ended = status.get("state") in ("saved", "done", "failed")
    if float(status.get("time") or 0.0) >= record.submitted:
        # a local process has only to exit after it wrote this; Slurm may have restarted the job
        return status, None if has_ended and record.cluster == "local" else state
    was_done = status.get("state") == "done" and state.word in ("gone", "done")
    return (status if was_done else {}), state  # all steps were done already


def _is_held(folder: Path, record: JobRecord | None, state: JobState | None) -> bool:
    """Return whether a live process holds the run; for ended local jobs without waiting."""
    is_gone = record is not None and record.cluster == "local" and state == JobState("gone")
    return not is_gone and is_fresh(folder)


def judge(status: Mapping[str, Any], state: JobState | None, held: bool) -> tuple[str, str]:
    """Derive a run's state and its reason from its status file and its job.

    Args:
        status: of the run's folder; empty before its start.
        state: of its job; None without a job, or if the scheduler need not be queried.
        held: whether a live process holds the folder.
    """
    recorded, error = str(status.get("state", "")), str(status.get("error", ""))
    word, reason = (state.word, state.reason) if state is not None else ("", "")
    if word == "pending":
        return word, reason
    if recorded == "running" and held:
        return "running", ""
    if word == "running":
        return "starting", ""
    if recorded == "running":
        if word in ("failed", "cancelled", "unknown"):
            return word, reason
        return "lost", "process died without reporting a status; rerun the command to resume"
    if recorded:
        return recorded, "; ".join(part for part in (error, reason) if part)
    if word in ("done", "failed", "cancelled", "unknown"):
        return word, reason
    return "failed", "job ended before the run started; see its log"


def _is_over(status: Mapping[str, Any], record: JobRecord) -> bool:
    """Return whether the run ended after this submission: no need to query the scheduler."""
    ended = status.get("state") in ("done", "failed")
    return ended and float(status.get("time") or 0.0) > record.submitted


def _started_by_hand(status: Mapping[str, Any]) -> str:
    job = status.get("job_id")
    return f"slurm job {job}" if job else f"pid {status.get('pid')} on {status.get('host')}"


def _last_logged(path: Path) -> dict[str, Any]:
    """Return the last complete line of the log; the very last may be partly written."""
    for line in reversed(last_lines(path)):
        with suppress(ValueError):
            return dict(json.loads(line))
    return {}


def run_names(mount: Mount) -> list[str]:
    """Return all runs, and all jobs whose runs have not started, newest last."""
    times = {name: record.submitted for name, record in read_records(mount).items()}
    for name, path in status_files(mount.models).items():
        times[name] = max(times.get(name, 0.0), path.stat().st_mtime)
    return sorted(times, key=times.__getitem__)


def run_table(overviews: Sequence[Overview]) -> Padding:
    """Return a table with one row per run."""
    head = ("run", "state", "step", "loss", "examples/s", "time left", "restarts", "job")
    return table([head, *(_cells(run) for run in overviews)])


def _cells(run: Overview) -> tuple[str | Text, ...]:
    loss, speed = run.logged.get("loss"), run.logged.get("examples_per_second")
    return (
        run.run_name,
        Text(run.word, STYLES.get(run.word, "")),
        "/".join(str(step) for step in (run.step, run.max_steps) if step is not None) or "-",
        "-" if loss is None else f"{loss:.4g}",
        "-" if speed is None or run.word != "running" else f"{speed:.3g}",
        "-" if run.seconds_left is None else in_words(run.seconds_left),
        str(run.restarts),
        run.job,
    )


def describe(run: Overview, mount: Mount) -> list[str]:
    """Return the lines that `status` prints, with the end of the run's log."""
    steps = ""
    if run.max_steps and run.step is not None:
        steps = f", step {run.step}/{run.max_steps}"
    numbers = []
    if run.logged:
        numbers.append(f"loss {run.logged.get('loss'):.4g}")
    if run.logged and run.word == "running":
        numbers.append(f"{run.logged.get('examples_per_second'):.3g} examples/s")
    if run.seconds_left is not None:
        numbers.append(f"about {in_words(run.seconds_left)} left without evaluations")
    again = f", {run.restarts} restart{'s' * (run.restarts > 1)}" * (run.restarts > 0)
    log = last_lines(folder_of(mount, run.run_name) / LOG)
    folder = "" if run.serves else str(mount.models / run.run_name)
    below = [run.reason, ", ".join(numbers), run.job + again, folder]
    below += ["end of its log:", *(f"  {line}" for line in log)] if log else []
    return [f"{run.run_name}: {run.word}{steps}", *(f"  {line}" for line in below if line)]


def last_lines(path: Path, count: int = LINES) -> list[str]:
    """Return the last lines of a log, progress bars in their last state; none without a log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line][-count:]


def in_words(seconds: float) -> str:
    """Format a duration by its two largest units, e.g. 2 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
