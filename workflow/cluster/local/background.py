"""A job on this machine that outlives the shell that started it."""

import os
import shlex
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from workflow.cluster.job_record import LOG, JobRecord
from workflow.cluster.resources import Submission, problems_of
from workflow.cluster.scheduler import JobState, Scheduler
from workflow.cluster.served import Server
from workflow.config.serve_flags import SERVE
from workflow.core.errors import BadInput, Problem
from workflow.runs.lock import is_live, start_of

_HINTS = {
    "num_nodes": "remove it; this is a single node",
    "gpu_type": "remove it; CUDA_VISIBLE_DEVICES selects the GPUs",
    "memory": "remove it; the job may use all free memory",
    "time": "remove it; local jobs have no time limit",
    "container": "remove it, or submit inside the container",
    "dependency": "remove it, and submit this job when the other is done",
    "slurm": "remove it, or submit to Slurm",
    "kubernetes": "remove it, or submit to Kubernetes",
}


class Background(Scheduler):
    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        problems = problems_of(submission.cluster, "local", _HINTS)
        return ("" if problems else script(submission)), problems

    def queue(self, text: str, submission: Submission) -> JobRecord:
        """Run the script in a new session, with its output appended to the log."""
        appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/bash",
            ["/bin/bash", "-c", text],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, submission.job_folder / LOG, appending, 0o666),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        name, serves = submission.run_name, isinstance(submission, Server)
        return JobRecord(name, "local", str(pid), started=start_of(pid), serves=serves)

    def state(self, record: JobRecord) -> JobState:
        """Return whether the process lives; only the run's status shows how it ended."""
        if record.host != socket.gethostname():
            return JobState("unknown", f"known only on {record.host}")
        return JobState("running" if is_live(int(record.identity), record.started) else "gone")

    def cancel(self, record: JobRecord) -> None:
        if record.host != socket.gethostname():
            found, expected = f"runs on {record.host}", "a job on this machine"
            hint = "cancel it there, or create the file `stop` in the run's folder"
            raise BadInput([Problem(f"cancel {record.run_name}", found, expected, hint)])
        if is_live(int(record.identity), record.started):
            os.kill(int(record.identity), signal.SIGTERM)


def script(submission: Submission) -> str:
    """The job as a shell script."""
    if isinstance(submission, Server):
        words = [submission.python, "-m", "workflow", SERVE, *submission.arguments]
    else:
        processes = ["--num_processes", submission.processes]
        words = [submission.python, submission.script, *submission.arguments, *processes]
    return "\n".join(
        [
            "#!/bin/bash",
            "# Written by `python3 -m workflow submit local`.",
            f"cd {shlex.quote(str(submission.folder))} || exit 1",
            *submission.setup_lines(),
            f"exec {shlex.join(map(str, words))}",
            "",
        ]
    )
