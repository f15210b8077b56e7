"""Submit, query and cancel jobs with Slurm's commands."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from workflow.cluster.containers import Runtime, find_runtime, installed_runtimes, problems_of_paths
from workflow.cluster.job_record import JobRecord
from workflow.cluster.resources import Submission
from workflow.cluster.scheduler import JobState, NotChecked, Scheduler
from workflow.cluster.served import Server
from workflow.cluster.slurm.script import problems_of_words, script
from workflow.cluster.slurm.server_script import server_script
from workflow.core.errors import BadInput, Problem

_WORDS = {
    "PENDING": "pending", "REQUEUED": "pending", "REQUEUE_HOLD": "pending",
    "REQUEUE_FED": "pending", "SPECIAL_EXIT": "pending", "RESV_DEL_HOLD": "pending",
    "RUNNING": "running", "COMPLETING": "running", "CONFIGURING": "running", "RESIZING": "running",
    "SIGNALING": "running", "STAGE_OUT": "running", "STOPPED": "running", "SUSPENDED": "running",
    "COMPLETED": "done", "CANCELLED": "cancelled", "REVOKED": "cancelled",
}  # fmt: skip
"""Our states by Slurm's (manual of squeue); all others are failures."""

_UNREACHABLE = re.compile(
    r"contact slurm controller|configuration source|slurm daemon|socket timed out|zero bytes|"
    r"connection (refused|timed out|failure)|connect failure|not responding|standby mode|"
    r"authentication|munge|dns srv",
    re.IGNORECASE,
)
"""Errors of Slurm's commands if no controller answers."""


class Slurm(Scheduler):
    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        container, problems = submission.cluster.container, problems_of_words(submission.cluster)
        runtime: Runtime | Problem | None = None
        if container is not None:
            problems += problems_of_paths(reads, submission)
            runtime = find_runtime(container, *installed_runtimes())
        if isinstance(runtime, Problem):
            return "", [*problems, runtime]
        if problems:
            return "", problems
        if isinstance(submission, Server):
            return server_script(submission, runtime), []
        return script(submission, runtime), []

    def problems_of_text(self, text: str) -> list[Problem]:
        if shutil.which("sbatch") is None:
            return [_unreachable("sbatch not found")]
        tested = _call("sbatch", "--test-only", text=text)
        hint = "correct the cluster flags (sinfo lists partitions)"
        return [_refusal(tested.stderr, hint)] if tested.returncode else []

    def queue(self, text: str, submission: Submission) -> JobRecord:
        queued = _call("sbatch", "--parsable", text=text)
        number = queued.stdout.strip().partition(";")[0]
        if queued.returncode or not number.isdigit():
            raise BadInput([_refusal(queued.stderr, "fix the error; nothing was queued")])
        serves = isinstance(submission, Server)
        return JobRecord(submission.run_name, "slurm", number, serves=serves)

    def state(self, record: JobRecord) -> JobState:
        """Query the controller, else the accounting database if there is one."""
        if shutil.which("scontrol") is None:
            return JobState("unknown", "scontrol not found")
        shown = _call("scontrol", "--oneliner", "show", "job", record.identity)
        if shown.returncode == 0 and "JobState=" in shown.stdout:
            return read_job(shown.stdout)
        # The latter for a task that was cancelled before its array reached it.
        if "Invalid job id" not in shown.stderr and "not found" not in shown.stdout:
            return JobState("unknown", _reason(shown.stderr))
        kept = _call("sacct", "--parsable2", "--noheader", "--allocations",
                     f"--jobs={record.identity}", "--format=State,ExitCode,NodeList")  # fmt: skip
        if kept.returncode == 0 and kept.stdout.strip():
            return read_account(kept.stdout)
        return JobState("gone", "job no longer known to Slurm")

    def cancel(self, record: JobRecord) -> None:
        ended = _call("scancel", record.identity)
        if ended.returncode:
            where, number = f"scancel {record.identity}", record.identity
            hint = f"check its state with `scontrol show job {number}`"
            raise BadInput([Problem(where, _reason(ended.stderr), "an active job", hint)])


def _refusal(stderr: str, hint: str) -> Problem:
    """Report why sbatch rejects a job, or that Slurm is unreachable."""
    reason = _reason(stderr)
    if _UNREACHABLE.search(stderr):
        return _unreachable(f"cannot reach Slurm: {reason}")
    return Problem("sbatch", reason, "a job that Slurm accepts", hint)


def _unreachable(found: str) -> NotChecked:
    hint = "submit from a machine where `sinfo` works, or use `submit local`"
    return NotChecked("submit slurm", found, "a Slurm login node", hint)


def read_job(text: str) -> JobState:
    """Parse a line of `scontrol --oneliner show job`."""
    values = dict(re.findall(r"(\w+)=(\S*)", text))
    name = values.get("JobState", "")
    reason = values.get("Reason", "None")
    nodes = values.get("NodeList", "(null)")
    word = _WORDS.get(name, "failed")
    detail = name if word in ("failed", "cancelled") else ""
    if reason not in ("None", "(null)"):
        detail = f"{detail}, {reason}" if detail else reason
    return JobState(
        word, detail, () if nodes in ("", "(null)") else (nodes,), int(values.get("Restarts", "0"))
    )


def read_account(text: str) -> JobState:
    """Parse `sacct --parsable2` with State, ExitCode and NodeList; the last start counts."""
    name, _, nodes = text.strip().splitlines()[-1].split("|")
    word = _WORDS.get(name.split()[0], "failed")  # CANCELLED by 1000
    known = () if nodes in ("", "None assigned") else (nodes,)
    return JobState(word, name if word in ("failed", "cancelled") else "", known)


def _call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:  # like a shell that does not find the command
        return subprocess.CompletedProcess(command, 127, "", error.strerror or str(error))


def _reason(stderr: str) -> str:
    """Return the error messages of a Slurm command without their "COMMAND: error:" prefixes."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no error message"
