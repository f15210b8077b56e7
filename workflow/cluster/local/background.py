"""A job on this machine that outlives the shell it was started from."""

import os
import shlex
import signal
from pathlib import Path

from workflow.cluster.job_state import State
from workflow.cluster.resources import (
    Cluster,
    Submission,
    meaningless,
    problems_of,
    python_of,
    setup_lines,
)
from workflow.core.errors import Problem
from workflow.runs.lock import is_live, start_of

_MEANINGLESS = {
    "num_nodes": "leave it out: this is one machine",
    "gpu_type": "leave it out: CUDA_VISIBLE_DEVICES chooses GPUs",
    "memory": "leave it out: the job takes what is free",
    "time": "leave it out: nothing ends the job here",
    "container": "leave it out, or start the job inside of the container",
    "dependency": "start the job when the other has ended: A && B",
    "slurm": "leave it out, or submit to Slurm",
    "kubernetes": "leave it out, or submit to Kubernetes",
}


def script(submission: Submission, cluster: Cluster) -> str:
    """The job as a shell script."""
    processes = ["--num_processes", submission.processes]
    words = [python_of(submission.project), submission.script, *submission.arguments, *processes]
    return "\n".join(
        [
            "#!/bin/bash",
            "# Written by `python3 -m workflow submit local`.",
            f"cd {shlex.quote(str(submission.folder))} || exit 1",
            *setup_lines(submission, cluster),
            f"exec {shlex.join(map(str, words))}",
            "",
        ]
    )


def problems(cluster: Cluster) -> list[Problem]:
    return [*problems_of(cluster, "local"), *meaningless(cluster, "local", _MEANINGLESS)]


def start(text: str, log: Path) -> tuple[int, float]:
    """Run a script in a session of its own, its words going to a log; its pid and start time."""
    words = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        "/bin/bash",
        ["/bin/bash", "-c", text],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, words, 0o666),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return pid, start_of(pid)


def state(pid: int, started: float) -> State:
    """Whether the process of a job lives; how one ended that does not, only its run can tell."""
    return State("running" if is_live(pid, started) else "gone")


def cancel(pid: int, started: float) -> None:
    """Ask a job to save and end; nothing where it has ended."""
    if is_live(pid, started):
        os.kill(pid, signal.SIGTERM)
