"""Runs as they stand: what their folders tell, and what their clusters add to it."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflow.cluster.job_record import LOG, Record, folder_of, read_record, read_records
from workflow.cluster.registry import state_of
from workflow.cluster.scheduler import State
from workflow.core.errors import BadInput, Problem, shorten
from workflow.core.tables import aligned
from workflow.runs.lock import is_fresh
from workflow.runs.mount import Mount
from workflow.runs.status import TRAIN_LOG, read_spec, read_status, status_files

LINES = 10
"""Of a log, shown with a run's status."""


@dataclass(frozen=True)
class Overview:
    """A run in a few words.

    Attributes:
        word: pending, starting, running, saved, done, failed, cancelled, unknown where its cluster
            cannot be asked, or lost: it says that it runs, and no process does.
        reason: why, where there is more to say.
        logged: the last line of train_log.jsonl.
        batch_size: examples of a step.
        job: the job in words, its machines, and how often it was started again.
    """

    run_name: str
    word: str
    reason: str = ""
    step: int | None = None
    max_steps: int | None = None
    logged: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    job: str = ""
    nodes: tuple[str, ...] = ()
    restarts: int = 0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest of the steps takes at the speed of the last; None where none is known.

        Evaluations and saves come on top.
        """
        speed = self.logged.get("examples_per_second")
        if self.word != "running" or not speed or self.batch_size is None:
            return None
        if self.step is None or self.max_steps is None:
            return None
        return (self.max_steps - self.step) * self.batch_size / float(speed)


def look(mount: Mount, run_name: str) -> Overview:
    """A run, by its folder and its job; raises BadInput where there is neither."""
    folder, record = mount.models / run_name, read_record(folder_of(mount, run_name))
    status = read_status(folder)
    if not status and record is None:
        known = list(run_names(mount))
        mend = f"choose among {', '.join(known[:5])}" if known else "submit one"
        found = "no run and no job of this name"
        raise BadInput(
            [Problem(f"run {shorten(run_name)}", found, f"a run in {mount.models}", mend)]
        )
    state = None
    if record is not None and not _is_over(status, record):
        state = state_of(record)
    word, reason = judge(*_told(status, record, state), _is_held(folder, record, state))
    logged = _last_logged(folder / TRAIN_LOG)
    step, spec = status.get("step"), read_spec(folder)
    if word == "running" and logged and step is not None:
        step = max(int(step), int(logged.get("step", 0)))
    sizes = [spec.get("train_batch_size"), spec.get("gradient_accumulation_steps")]
    return Overview(
        run_name,
        word,
        reason,
        step,
        status.get("max_steps"),
        logged,
        math.prod(size for size in sizes if size is not None) if all(sizes) else None,
        record.title if record else _started_by_hand(status),
        state.nodes if state else (),
        max(int(status.get("restarts") or 0), state.restarts if state else 0),
    )


def _told(
    status: dict[str, Any], record: Record | None, state: State | None
) -> tuple[dict[str, Any], State | None]:
    """What counts of a run's words and its cluster's, by which of them are newer."""
    if record is None or state is None:
        return status, state
    has_ended = status.get("state") in ("saved", "done", "failed")
    if float(status.get("time") or 0.0) >= record.submitted:
        # a process of this machine that has said so only has to end; Slurm may have begun again
        return status, None if has_ended and record.cluster == "local" else state
    was_done = status.get("state") == "done" and state.word in ("gone", "done")
    return (status if was_done else {}), state  # nothing was left to do


def _is_held(folder: Path, record: Record | None, state: State | None) -> bool:
    """Whether a process writes the run; of this machine's that is known without waiting."""
    is_gone = record is not None and record.cluster == "local" and state == State("gone")
    return not is_gone and is_fresh(folder)


def judge(status: Mapping[str, Any], state: State | None, held: bool) -> tuple[str, str]:
    """What a run is doing, and why, from its own words and those of its cluster.

    Args:
        status: of the run's folder; empty where it has not begun.
        state: of its job; None where it has none, or its cluster need not be asked.
        held: whether a live process holds the folder.
    """
    told, error = str(status.get("state", "")), str(status.get("error", ""))
    word, reason = (state.word, state.reason) if state is not None else ("", "")
    if word == "pending":
        return word, reason
    if told == "running" and held:
        return "running", ""
    if word == "running":
        return "starting", ""
    if told == "running":
        if word in ("failed", "cancelled", "unknown"):
            return word, reason
        return "lost", "its process ended without a word; the same command goes on"
    if told:
        return told, "; ".join(part for part in (error, reason) if part)
    if word in ("done", "failed", "cancelled", "unknown"):
        return word, reason
    return "failed", "it ended before the run began; its log says why"


def _is_over(status: Mapping[str, Any], record: Record) -> bool:
    """Whether the run has ended since the job was submitted, so that no cluster need be asked."""
    ended = status.get("state") in ("done", "failed")
    return ended and float(status.get("time") or 0.0) > record.submitted


def _started_by_hand(status: Mapping[str, Any]) -> str:
    job = status.get("job_id")
    return f"slurm job {job}" if job else f"pid {status.get('pid')} on {status.get('host')}"


def _last_logged(path: Path) -> dict[str, Any]:
    """The last step that was logged whole: a line may only be being written."""
    for line in reversed(last_lines(path)):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}


def run_names(mount: Mount) -> Iterator[str]:
    """All runs, and all jobs that are no runs yet; the newest last."""
    found = {name: record.submitted for name, record in read_records(mount).items()}
    for name, path in status_files(mount.models).items():
        found[name] = max(found.get(name, 0.0), path.stat().st_mtime)
    return iter(sorted(found, key=lambda name: found[name]))


def table(overviews: Sequence[Overview]) -> list[str]:
    """A line a run."""
    head = ("run", "state", "step", "loss", "examples/s", "left", "restarts", "job")
    return aligned([head, *(_cells(one) for one in overviews)])


def _cells(one: Overview) -> tuple[str, ...]:
    loss, speed = one.logged.get("loss"), one.logged.get("examples_per_second")
    return (
        one.run_name,
        one.word,
        _steps(one) or "-",
        "-" if loss is None else f"{loss:.4g}",
        "-" if speed is None or one.word != "running" else f"{speed:.3g}",
        "-" if one.seconds_left is None else in_words(one.seconds_left),
        str(one.restarts),
        " on ".join([one.job, *one.nodes]),
    )


def _steps(one: Overview) -> str:
    if one.step is None:
        return ""
    return f"{one.step}" if one.max_steps is None else f"{one.step}/{one.max_steps}"


def describe(one: Overview, mount: Mount) -> list[str]:
    """A run in a few lines, with the last ones of its log."""
    steps = (
        f", step {one.step} of {one.max_steps}" if one.max_steps and one.step is not None else ""
    )
    lines = [f"{one.run_name}: {one.word}{steps}"]
    if one.reason:
        lines.append(f"  {one.reason}")
    shown = []
    if one.logged:
        shown.append(f"loss {one.logged.get('loss'):.4g}")
    if one.logged and one.word == "running":
        shown.append(f"{one.logged.get('examples_per_second'):.3g} examples/s")
    if one.seconds_left is not None:
        shown.append(f"about {in_words(one.seconds_left)} of steps left")
    if shown:
        lines.append(f"  {', '.join(shown)}")
    again = f", started again {one.restarts} time{'s' * (one.restarts > 1)}" * (one.restarts > 0)
    lines.append(f"  {' on '.join([one.job, *one.nodes])}{again}")
    lines.append(f"  {mount.models / one.run_name}")
    log = last_lines(folder_of(mount, one.run_name) / LOG)
    return [*lines, *(["  its log ends with"] if log else []), *(f"    {line}" for line in log)]


def last_lines(path: Path, count: int = LINES) -> list[str]:
    """The last lines of a log, bars as they stood last; none where it is not there."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [line for line in lines if line][-count:]


def in_words(seconds: float) -> str:
    """A length of time by its two greatest units, as 2 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
