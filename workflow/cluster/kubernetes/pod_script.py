"""What a pod runs: torchrun, as a shell script that says by its exit status how the run ended."""

import shlex

from workflow.cluster.resources import Submission

PORT = 29400
MEETING_SECONDS = 600
"""For which pods wait for each other: some nodes have the image already, others fetch it."""

_BEFORE_THE_JOB = "trap 'exit 75' TERM  # nothing is lost yet"
_HOLDS_MEETING = "((is_host = JOB_COMPLETION_INDEX == 0))"
_BEGINNING = r"""
status=$WORKFLOW_MOUNT/{run}/status.json
started=${{TMPDIR:-/tmp}}/started
touch "$started"
{torchrun} &
job=$!
trap 'kill -TERM "$job"' TERM
"""
_ENDING = r"""
wait "$job"; ended=$?
while kill -0 "$job" 2>/dev/null; do  # the signal has ended the waiting, not the job
  wait "$job"; ended=$?
done

# torchrun ends with 1 whatever its workers end with, and with 0 where they stopped as asked:
# what the run has written since the start says how it ended
written() { [[ $status -nt $started ]]; }
says() { written && grep -Eq "^ *$1,?\$" "$status"; }
if says '"state": "done"'; then exit 0; fi
if says '"exit_status": 2'; then exit 2; fi  # refused: to start again would be in vain
if says '"state": "saved"'; then exit 75; fi  # start again, and go on
if written && ((ended == 0)); then exit 1; fi
exit "$ended"
"""


def pod_script(submission: Submission, project: str, name: str) -> str:
    """The script, for bash as process 1, which has to pass SIGTERM on and to wait.

    Args:
        project: the folder of the scripts in the pod.
        name: of the Job and its Service.
    """
    cluster = submission.cluster
    setup = [*cluster.setup, "set +eu  # whatever the lines above chose"] if cluster.setup else []
    run = shlex.quote(f"models/{submission.run_name}")
    torchrun = " \\\n  ".join(
        [
            "python3 -m torch.distributed.run",
            f"--nnodes={cluster.num_nodes} --nproc-per-node={submission.processes}",
            *_meeting(cluster.num_nodes, name),
            f"--shutdown-timeout={submission.margin}",
            shlex.join([f"{submission.task}.py", *submission.arguments]),
        ]
    )
    first = [_BEFORE_THE_JOB, *setup, f"cd {shlex.quote(project)} || exit 1"]
    if cluster.num_nodes > 1:
        first.append(_HOLDS_MEETING)
    return "\n".join(first) + _BEGINNING.format(run=run, torchrun=torchrun) + _ENDING


def _meeting(nodes: int, name: str) -> list[str]:
    """How the pods find each other.

    Pod 0 holds the meeting place, and is told so: torchrun would go by the address, which may not
    be known yet when pod 0 starts.
    """
    host = f"{name}-0.{name}" if nodes > 1 else "127.0.0.1"
    flags = [f"--rdzv-backend=c10d --rdzv-endpoint={host}:{PORT} --rdzv-id={name}"]
    if nodes > 1:
        flags.append(f"--rdzv-conf=is_host=$is_host,read_timeout={MEETING_SECONDS}")
    return flags
