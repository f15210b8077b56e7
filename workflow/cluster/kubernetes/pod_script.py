"""The script that a pod runs: torchrun, with an exit status that shows how the run ended."""

import shlex

from workflow.cluster.resources import Cluster, Submission
from workflow.cluster.served import Server
from workflow.config.serve_flags import SERVE

JOB_LABEL = "batch.kubernetes.io/job-name"  # of a job's pods, set by the Job controller
SERVER_LABEL = "app.kubernetes.io/instance"  # of a server's pod
PORT = 29400
RENDEZVOUS_SECONDS = 600
"""How long pods wait for each other: some nodes have to pull the image first."""

_BEFORE_THE_SERVER = "trap 'exit 143' TERM  # the first process ignores it otherwise"
_BEFORE_THE_JOB = "trap 'exit 75' TERM  # before the run starts there is nothing to save"
_IS_HOST = "((is_host = JOB_COMPLETION_INDEX == 0))"
_BEGINNING = r"""
status=$WORKFLOW_MOUNT/{run}/status.json
started=${{TMPDIR:-/tmp}}/started
touch "$started"
"""
_JOB = r"""{command} &
job=$!
trap 'kill -TERM "$job"' TERM

wait "$job"; ended=$?
while kill -0 "$job" 2>/dev/null; do  # the signal ended wait, not the job
  wait "$job"; ended=$?
done
"""
_ENDING = r"""
# torchrun hides the exit status of its workers: if the run wrote its status file
# since the start, that file shows how it ended
written() { [[ $status -nt $started ]]; }
has() { written && grep -Eq "^ *$1,?\$" "$status"; }
if has '"state": "done"'; then exit 0; fi
if has '"exit_status": 2'; then exit 2; fi  # invalid input: a restart would fail again
if has '"state": "saved"'; then exit 75; fi  # restart and resume
if written && ((ended == 0)); then exit 1; fi
exit "$ended"
"""


def pod_script(submission: Submission, project: str, name: str) -> str:
    """Return the script for bash as process 1, which has to forward SIGTERM and wait.

    Args:
        project: the folder of the scripts in the pod.
        name: of the Job and its Service.
    """
    cluster = submission.cluster
    run = shlex.quote(f"models/{submission.run_name}")
    torchrun = " \\\n  ".join(
        [
            "python3 -m torch.distributed.run",
            f"--nnodes={cluster.num_nodes} --nproc-per-node={submission.processes}",
            *_rendezvous(cluster.num_nodes, name),
            f"--shutdown-timeout={submission.margin}",
            shlex.join([f"{submission.task}.py", *submission.arguments]),
        ]
    )
    more = [_IS_HOST] if cluster.num_nodes > 1 else []
    first = "\n".join([_BEFORE_THE_JOB, *_setup(cluster, project), *more])
    return first + _BEGINNING.format(run=run) + _JOB.format(command=torchrun) + _ENDING


def server_script(server: Server, project: str) -> str:
    """Return the script of a server's pod; SIGTERM ends it while it loads, too."""
    first = "\n".join([_BEFORE_THE_SERVER, *_setup(server.cluster, project), ""])
    command = shlex.join(["python3", "-m", "workflow", SERVE, *server.arguments])
    return first + _JOB.format(command=command) + 'exit "$ended"\n'


def _setup(cluster: Cluster, project: str) -> list[str]:
    setup = [*cluster.setup, "set +eu  # undo what setup may have set"] if cluster.setup else []
    return [*setup, f"cd {shlex.quote(project)} || exit 1"]


def _rendezvous(nodes: int, name: str) -> list[str]:
    """Return the rendezvous flags of torchrun.

    Pod 0 is set as the host: torchrun would compare addresses, and pod 0's may not resolve yet
    when it starts.
    """
    host = f"{name}-0.{name}" if nodes > 1 else "127.0.0.1"
    flags = [f"--rdzv-backend=c10d --rdzv-endpoint={host}:{PORT} --rdzv-id={name}"]
    if nodes > 1:
        flags.append(f"--rdzv-conf=is_host=$is_host,read_timeout={RENDEZVOUS_SECONDS}")
    return flags
