"""What Slurm's own commands say of jobs, and do with them."""

import re
import shutil
import subprocess

from workflow.cluster.job_state import OutOfReach, State
from workflow.core.errors import BadInput, Problem

_WORDS = {
    "PENDING": "pending", "REQUEUED": "pending", "REQUEUE_HOLD": "pending",
    "REQUEUE_FED": "pending", "SPECIAL_EXIT": "pending", "RESV_DEL_HOLD": "pending",
    "RUNNING": "running", "COMPLETING": "running", "CONFIGURING": "running", "RESIZING": "running",
    "SIGNALING": "running", "STAGE_OUT": "running", "STOPPED": "running", "SUSPENDED": "running",
    "COMPLETED": "done", "CANCELLED": "cancelled", "REVOKED": "cancelled",
}  # fmt: skip
"""Slurm's names of states (squeue's manual); all others are failures."""


_OUT_OF_REACH = re.compile(
    r"contact slurm controller|configuration source|slurm daemon|socket timed out|zero bytes|"
    r"connection (refused|timed out|failure)|connect failure|not responding|standby mode|"
    r"authentication|munge|dns srv",
    re.IGNORECASE,
)
"""What Slurm's commands say where no controller answers them."""


def problems_of_script(text: str) -> list[Problem]:
    """What Slurm itself says against a batch script, without queueing it.

    Raises:
        OutOfReach: where it cannot be asked.
    """
    if shutil.which("sbatch") is None:
        raise OutOfReach([_no_slurm("no command sbatch here")])
    tried = _call("sbatch", "--test-only", text=text)
    if tried.returncode == 0:
        return []
    _check_reached(tried.stderr)
    mend = "correct the words of the cluster part (sinfo lists partitions)"
    return [Problem("sbatch", _reason(tried.stderr), "a job that Slurm takes", mend)]


def _check_reached(stderr: str) -> None:
    """Raise OutOfReach where Slurm's command has reached nobody."""
    if _OUT_OF_REACH.search(stderr):
        raise OutOfReach([_no_slurm(f"Slurm out of reach ({_reason(stderr)})")])


def _no_slurm(found: str) -> Problem:
    mend = "submit from a machine where `sinfo` works, or use `submit local`"
    return Problem("submit slurm", found, "a login node of Slurm", mend)


def queue(text: str) -> str:
    """Queue a batch script; returns the job's number, or raises BadInput with Slurm's reason."""
    queued = _call("sbatch", "--parsable", text=text)
    number = queued.stdout.strip().partition(";")[0]
    if queued.returncode or not number.isdigit():
        _check_reached(queued.stderr)
        mend = "nothing was queued: correct that, and submit again"
        raise BadInput([Problem("sbatch", _reason(queued.stderr), "a job that is taken", mend)])
    return number


def state(number: str) -> State:
    """What Slurm knows of a job: from its controller, else from its accounting if it has one."""
    if shutil.which("scontrol") is None:
        return State("unknown", "no Slurm commands here")
    shown = _call("scontrol", "--oneliner", "show", "job", number)
    if shown.returncode == 0 and "JobState=" in shown.stdout:
        return read_job(shown.stdout)
    if "Invalid job id" not in shown.stderr:
        return State("unknown", _reason(shown.stderr))
    if shutil.which("sacct") is not None:
        kept = _call("sacct", "--parsable2", "--noheader", "--allocations", f"--jobs={number}",
                     "--format=State,ExitCode,NodeList")  # fmt: skip
        if kept.returncode == 0 and kept.stdout.strip():
            return read_account(kept.stdout)
    return State("gone", "Slurm has forgotten it")


def read_job(text: str) -> State:
    """A job from one line of `scontrol --oneliner show job`."""
    values = dict(re.findall(r"(\w+)=(\S*)", text))
    name = values.get("JobState", "")
    reason = values.get("Reason", "None")
    nodes = values.get("NodeList", "(null)")
    word = _WORDS.get(name, "failed")
    told = name if word in ("failed", "cancelled") else ""
    if reason not in ("None", "(null)"):
        told = f"{told}, {reason}" if told else reason
    return State(
        word,
        told,
        () if nodes in ("", "(null)") else (nodes,),
        int(values.get("Restarts", "0")),
    )


def read_account(text: str) -> State:
    """A job from `sacct --parsable2` with State, ExitCode and NodeList: its last start."""
    name, _, nodes = text.strip().splitlines()[-1].split("|")
    word = _WORDS.get(name.split()[0], "failed")  # CANCELLED by 1000
    known = () if nodes in ("", "None assigned") else (nodes,)
    return State(word, name if word in ("failed", "cancelled") else "", known)


def cancel(number: str) -> None:
    """End a job, queued or running; raises BadInput with Slurm's reason where it does not."""
    ended = _call("scancel", number)
    if ended.returncode:
        mend = "end it by the cluster's own means"
        raise BadInput([Problem(f"scancel {number}", _reason(ended.stderr), "a job", mend)])


def _call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:  # as of a shell that finds no such command
        return subprocess.CompletedProcess(command, 127, "", error.strerror or str(error))


def _reason(stderr: str) -> str:
    """What a command of Slurm said, without its name and its assurance that it failed."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line)) or "no reason"
