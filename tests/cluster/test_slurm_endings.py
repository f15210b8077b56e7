"""How the batch script finds out who stopped a job, with shell scripts as Slurm's commands.

test_slurm_jobs.py runs it on a real Slurm.
"""

import os
import subprocess
from pathlib import Path

import pytest

from workflow.cluster.resources import Cluster, Submission
from workflow.cluster.slurm.script import script
from workflow.runs.mount import Mount

SRUN = """#!/bin/bash
{before}
[ -z "{state}" ] || printf '{{\\n  "state": "{state}",\\n  "error": "{error}"\\n}}\\n' > "{status}"
exit {code}
"""
SCONTROL = """#!/bin/bash
case $1 in
  show) echo node1 ;;
  --oneliner) echo "JobId=7 JobState=RUNNING PreemptTime={preempted} Restarts=0" ;;
  requeue) echo requeued ;;
esac
"""


def run(
    folder: Path,
    code: int = 0,
    state: str = "",
    error: str = "",
    seen: str = "RUNNING",
    preempted: str = "None",
    restarts: int = 0,
    before: str = "",
    setup: tuple[str, ...] = (),
) -> tuple[int, bool]:
    """Run the script; returns its exit status and whether it requeued the job.

    Args:
        code: of srun.
        state, error: content of the run's status.json; no file if state is "".
        seen: the job's state in squeue.
        before: shell commands that srun runs first.
    """
    run_folder, commands = folder / "models" / "run", folder / "commands"
    for made in (run_folder, commands, Mount(folder).jobs / "run"):
        made.mkdir(parents=True)
    if state:
        (run_folder / "training_args.json").touch()
    texts = {
        "srun": SRUN.format(
            before=before, state=state, error=error, status=run_folder / "status.json", code=code
        ),
        "squeue": f"#!/bin/bash\necho {seen}\n",
        "scontrol": SCONTROL.format(preempted=preempted),
        "sleep": "#!/bin/bash\nexec /bin/sleep 0.1\n",
    }
    for name, text in texts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    cluster = Cluster(max_restarts=3, setup=setup)
    mount = Mount(folder)
    text = script(Submission("clf", (), "run", 1, folder, folder, mount, 60, cluster), None)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                   "SLURM_JOB_NODELIST": "node1", "SLURM_RESTART_COUNT": str(restarts)}  # fmt: skip
    ended = subprocess.run(
        ["bash", "-c", text], env=environment, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    return ended.returncode, "requeued" in ended.stdout


USR1 = 'kill -USR1 "$PPID"; /bin/sleep 0.5'
SIGTERM, CRASH = 1, 1
"""torchrun's exit status after SIGTERM, and after a process failed."""


def test_done(tmp_path: Path) -> None:
    assert run(tmp_path, 0, "done") == (0, False)


def test_done_though_the_signal_came_last(tmp_path: Path) -> None:
    assert run(tmp_path, SIGTERM, "done") == (0, False)


def test_out_of_time(tmp_path: Path) -> None:
    assert run(tmp_path, 0, "saved", before=USR1) == (0, True)


def test_out_of_time_before_the_run_began(tmp_path: Path) -> None:
    assert run(tmp_path, 143, before=USR1) == (0, True)


def test_preempted(tmp_path: Path) -> None:
    assert run(tmp_path, SIGTERM, "saved") == (0, True)


@pytest.mark.parametrize("state", ["", "running", "failed"])
def test_preempted_before_the_run_began(tmp_path: Path, state: str) -> None:
    error = "interrupted" if state == "failed" else ""
    preempted = "2026-01-01T00:00:00"
    assert run(tmp_path, SIGTERM, state, error, preempted=preempted) == (0, True)


@pytest.mark.parametrize("state", ["saved", "running", ""])
def test_cancelled(tmp_path: Path, state: str) -> None:
    code, again = run(tmp_path, SIGTERM, state, seen="CANCELLED")
    assert (code != 0, again) == (True, False)


def test_a_stop_file_of_the_users_own(tmp_path: Path) -> None:
    assert run(tmp_path, 0, "saved") == (75, False)


@pytest.mark.parametrize(("code", "state"), [(CRASH, "failed"), (0, "failed"), (CRASH, ""),
                                             (CRASH, "running")])  # fmt: skip
def test_failed(tmp_path: Path, code: int, state: str) -> None:
    assert run(tmp_path, code, state) == (1, False)


def test_failed_though_asked_to_stop(tmp_path: Path) -> None:
    assert run(tmp_path, CRASH, "failed", before=USR1) == (1, False)


def test_what_only_prints(tmp_path: Path) -> None:
    assert run(tmp_path, 0) == (0, False)


def test_requeues_are_limited(tmp_path: Path) -> None:
    assert run(tmp_path / "a", 0, "saved", before=USR1, restarts=2) == (0, True)
    assert run(tmp_path / "b", 0, "saved", before=USR1, restarts=3) == (75, False)
    assert run(tmp_path / "c", 0, "done", restarts=4) == (1, False)


def test_an_earlier_status_does_not_count(tmp_path: Path) -> None:
    status = tmp_path / "models" / "run"
    old = (
        f'echo \'  "state": "saved",\' > "{status}/status.json"; touch -d @0 "{status}/status.json"'
    )
    assert run(tmp_path, CRASH, setup=(f"mkdir -p {status}", old)) == (1, False)


def test_the_users_own_lines_cannot_break_it(tmp_path: Path) -> None:
    lines = ("set -eu", "run=/nowhere", "folder=/nowhere")
    assert run(tmp_path, 0, "saved", before=USR1, setup=lines) == (0, True)


def test_the_stop_file_waits_for_the_run(tmp_path: Path) -> None:
    """Before the run starts its processes are terminated, afterwards it is asked to save."""
    folder = tmp_path / "models" / "run"
    begins = f"rm {folder}/*; trap '' TERM; kill -USR1 $PPID; touch {folder}/training_args.json; "
    waits = f"until [ -e {folder}/stop ]; do /bin/sleep 0.05; done"
    assert run(tmp_path, 0, "saved", before=begins + waits) == (0, True)
