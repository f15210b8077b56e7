"""A job on this machine that outlives the shell it was started from."""

import os
import shlex
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from workflow.cluster.job_record import LOG, JobRecord
from workflow.cluster.resources import Submission, problems_of
from workflow.cluster.scheduler import JobState, Scheduler
from workflow.core.errors import BadInput, Problem
from workflow.runs.lock import is_live, start_of

_MENDS = {
    "num_nodes": "leave it out: this is one machine",
    "gpu_type": "leave it out: CUDA_VISIBLE_DEVICES chooses GPUs",
    "memory": "leave it out: the job takes what is free",
    "time": "leave it out: nothing ends the job here",
    "container": "leave it out, or start the job inside of the container",
    "dependency": "start the job when the other has ended: A && B",
    "slurm": "leave it out, or submit to Slurm",
    "kubernetes": "leave it out, or submit to Kubernetes",
}


class Background(Scheduler):
    def render(self, submission: Submission, reads: Sequence[Path]) -> tuple[str, list[Problem]]:
        problems = problems_of(submission.cluster, "local", _MENDS)
        return ("" if problems else script(submission)), problems

    def queue(self, text: str, submission: Submission) -> JobRecord:
        """Run the script in a session of its own, its words going to the log."""
        words = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/bash",
            ["/bin/bash", "-c", text],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, submission.job_folder / LOG, words, 0o666),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        return JobRecord(submission.run_name, "local", str(pid), started=start_of(pid))

    def state(self, record: JobRecord) -> JobState:
        """Whether the process lives; how one ended that does not, only its run can tell."""
        if record.host != socket.gethostname():
            return JobState("unknown", f"only {record.host} can tell")
        return JobState("running" if is_live(int(record.identity), record.started) else "gone")

    def cancel(self, record: JobRecord) -> None:
        if record.host != socket.gethostname():
            found, expected = f"a job of {record.host}", "one of this machine"
            hint = "cancel it there, or write a file `stop` into the run's folder"
            raise BadInput([Problem(f"cancel {record.run_name}", found, expected, hint)])
        if is_live(int(record.identity), record.started):
            os.kill(int(record.identity), signal.SIGTERM)


def script(submission: Submission) -> str:
    """The job as a shell script."""
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
