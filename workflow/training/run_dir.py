"""The folder of a run: its files other than checkpoints."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workflow.config.job import JobSpec
from workflow.core.console import log
from workflow.core.errors import BadInput, OutOfMemory, RunFailed, Stopped
from workflow.core.files import (
    WholeList,
    append_json_line,
    json_item,
    keep_json_lines,
    sync,
    write_json,
)
from workflow.distributed.world import shared
from workflow.reporting.report.run import keep_report
from workflow.reporting.trackers.base import NO_TRACKERS, Sample, Trackers
from workflow.runs.checkpoint import what_resumes
from workflow.runs.lock import RunLock
from workflow.runs.predictions import read_lines
from workflow.runs.status import METRICS, STARTS, STATUS_FILE, TRAIN_LOG, is_run_folder, read_status
from workflow.runs.train_state import Progress


def write_refusal(folder: Path, error: BadInput) -> None:
    """Record in status.json why a job was refused, if its folder is unused.

    A launcher's exit status is not that of the job.
    """
    if folder.exists() and any(path.name != STATUS_FILE for path in folder.iterdir()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    status = RunFacts().status("failed", Progress(), str(error))
    write_json(folder / STATUS_FILE, status | {"exit_status": error.exit_status})


def note_crash(folder: Path, reason: str, **more: Any) -> None:
    """Record in status.json why a run's processes ended, if rank 0 has not.

    Args:
        more: further keys.
    """
    status = read_status(folder)
    message = str(status.get("error", ""))
    unknown = status.get("state") == "running" or message == "interrupted"
    unknown = unknown or "gloo" in message or message.startswith("Dist")  # lost another process
    if is_run_folder(folder) and unknown:
        write_json(folder / STATUS_FILE, status | {"state": "failed", "error": reason} | more)


@dataclass(frozen=True)
class RunFacts:
    """The contents of status.json except for progress.

    Attributes:
        data: the key of each split's content.
        restarts: the number of earlier starts.
        max_padded_tokens: of a micro-batch, after an earlier start ran out of memory.
        parameters: of the model, all and those that are trained.
    """

    max_steps: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 0
    max_padded_tokens: int | None = None
    parameters: tuple[int, int] | None = None

    def status(self, state: str, progress: Progress, error: str | None = None) -> dict[str, Any]:
        """The contents of status.json; `state` is running, saved, done or failed."""
        status = {
            "state": state,
            "step": progress.step,
            "max_steps": self.max_steps,
            "best_step": progress.best_step,
            "best_value": progress.best_value,
            "stop_seconds": round(progress.stop_seconds, 3),
            "time": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job_id": os.environ.get("SLURM_JOB_ID"),
            "restarts": self.restarts,
            "data": self.data,
        }
        if self.max_padded_tokens is not None:
            status["micro_batch_tokens"] = self.max_padded_tokens
        if self.parameters is not None:
            status["parameters"], status["trained_parameters"] = self.parameters
        return status | ({"error": error} if error else {})


class RunFolder:
    """Writes the status, logs and report of a run."""

    def __init__(
        self,
        path: Path,
        facts: RunFacts,
        lock: RunLock | None = None,
        writes: bool = True,
        trackers: Trackers = NO_TRACKERS,
    ):
        """Write to the folder at `path`.

        Args:
            writes: whether this process writes; only rank 0 does.
            trackers: receive steps and evaluations too.
        """
        self.path = path
        self.trackers = trackers
        self._facts = facts
        self._main = writes
        self._lock = lock

    @property
    def writes(self) -> bool:
        """Whether this process writes, and its job still holds the folder."""
        return self._main and (self._lock is None or self._lock.taken_by is None)

    def write_status(self, state: str, progress: Progress, error: str | None = None) -> None:
        self.write_json(STATUS_FILE, self._facts.status(state, progress, error))

    def note_out_of_memory(self, progress: Progress, error: OutOfMemory) -> None:
        """Record the error, and the next start's micro-batch bound, in status.json; on any rank."""
        bound = error.positions or self._facts.max_padded_tokens
        self._facts = replace(self._facts, max_padded_tokens=bound)
        if self._main:
            self.write_status("failed", progress, str(error))
        else:
            more = {} if bound is None else {"micro_batch_tokens": bound}
            note_crash(self.path, str(error), **more)

    def append_start(self, line: dict[str, Any]) -> None:
        if self.writes:
            append_json_line(self.path / STARTS, line)

    def append_train_log(self, line: dict[str, Any]) -> None:
        if self.writes:
            append_json_line(self.path / TRAIN_LOG, line)
            self.trackers.log_step(line)

    def append_metrics(self, line: dict[str, Any], samples: Sequence[Sample] = ()) -> None:
        if self.writes:
            append_json_line(self.path / METRICS, line)
            self.trackers.log_evaluation(line["step"], line, samples)

    def keep_report(self) -> None:
        """Update report.html from the folder."""
        if self.writes:
            keep_report(self.path)

    def write_json(self, name: str, value: Any) -> None:
        if self.writes:
            write_json(self.path / name, value)

    @contextmanager
    def items(self, names: Sequence[str]) -> Iterator["PredictionFiles"]:
        """The prediction files of an evaluation; removed unless finished within the block."""
        files = PredictionFiles(self, names)
        try:
            yield files
        finally:
            files.discard()

    def metrics_before(self, step: int) -> list[dict[str, Any]]:
        """The metrics of earlier steps."""
        return [line for line in read_lines(self.path / METRICS) if line["step"] < step]

    def sync_logs(self) -> None:
        """Sync the logs to disk, before a checkpoint is written."""
        for name in (TRAIN_LOG, METRICS):
            if self.writes and (self.path / name).exists():
                sync(self.path / name)

    def roll_back(self, step: int) -> dict[str, Any] | None:
        """Remove log lines of later steps, which the run repeats, and truncated lines of starts.

        Returns:
            The metrics of the step itself, if it was evaluated.
        """
        for name in (TRAIN_LOG, METRICS):
            keep_json_lines(self.path / name, lambda line: line["step"] <= step)
        keep_json_lines(self.path / STARTS, lambda line: True)
        of_step = [line for line in read_lines(self.path / METRICS) if line["step"] == step]
        return of_step[-1] if of_step else None


class PredictionFiles:
    """The prediction files of an evaluation: one content, written item by item."""

    def __init__(self, run: RunFolder, names: Sequence[str]):
        self._run = run
        self._paths = [run.path / name for name in names]
        self._files: list[WholeList] = []

    def add(self, item: dict[str, Any]) -> None:
        text = json_item(item)
        for file in self._opened():
            file.add(text)

    def finish(self) -> None:
        """Publish the files, if the job still holds the run's folder."""
        for file in self._opened() if self._run.writes else ():
            file.finish()

    def discard(self) -> None:
        for file in self._files:
            file.discard()

    def _opened(self) -> list[WholeList]:
        """The files, created on first use."""
        if not self._files and self._run.writes:
            for path in self._paths:
                self._files.append(WholeList(path))
        return self._files


@contextmanager
def recording_outcome(run: RunFolder, progress: Progress, spec: JobSpec) -> Iterator[None]:
    """Record how the run ends in status.json; errors say how to resume.

    Raises:
        RunFailed: for errors of the operating system.
    """
    try:
        yield
    except Stopped as stopped:
        run.write_status("saved", progress)
        run.keep_report()
        message = f"stopped by {stopped} at step {progress.step}; {_next(run, spec)}"
        raise shared(Stopped(message)) from None
    except OutOfMemory as error:
        message = f"{error}; then {_next(run, spec, rerun=True)}"
        failure = OutOfMemory(message, error.positions)
        with suppress(OSError):
            run.note_out_of_memory(progress, failure)
        run.keep_report()
        raise failure from None
    except OSError as error:
        hint = f"fix the cause, then {_next(run, spec, rerun=True)}"
        refused = RunFailed(f"step {progress.step}: {error}. Hint: {hint}")
        refused = shared(refused) if getattr(error, "shared", False) else refused
        _note_failure(run, progress, str(refused))
        raise refused from error
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
        log.info("ended at step %d; partial results are in %s", progress.step, run.path)
        _note_failure(run, progress, reason)
        if not interrupted:  # an interrupted run should end at once
            run.keep_report()
        raise
    run.write_status("done", progress)
    run.keep_report()


def _next(run: RunFolder, spec: JobSpec, rerun: bool = False) -> str:
    """What the same command does next: a fact or, with `rerun`, the end of a hint."""
    without = " without --overwrite_output_dir" if spec.overwrite_output_dir else ""
    command, effect = f"the same command{without}", what_resumes(run.path)
    return f"rerun {command}, which {effect}" if rerun else f"{command} {effect}"


def _note_failure(run: RunFolder, progress: Progress, reason: str) -> None:
    """Record why the run failed, unless another process has: the first failure counts."""
    if read_status(run.path).get("state") == "failed":
        return
    with suppress(OSError):  # a full disk must not hide its own error
        run.write_status("failed", progress, reason)
