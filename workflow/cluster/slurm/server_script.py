"""The batch script of a server."""

import shlex

from workflow.cluster.containers import Runtime
from workflow.cluster.served import Server
from workflow.cluster.slurm.script import WAITING, assembled, in_step

_STOP = """\
# Slurm sends USR1 before the time limit, and at some sites before preemption: the server ends with
# its requests, and its job is requeued.
stopping=
step=
stop() {
  stopping=yes
  echo "$(date '+%F %T') received USR1 from Slurm: ending the server, then requeueing the job"
  [ -z "$step" ] || kill -TERM "$step"
}
trap stop USR1

"""
_END = """
# Preempted, the server ended with status 0, and Slurm would take its job as done.
if [ -n "$stopping" ] || scontrol --oneliner show job "$job" | grep -q ' PreemptTime=[0-9]'; then
  requeue
fi
exit "$status"
"""


def server_script(server: Server, runtime: Runtime | None) -> str:
    """Return the complete batch script for `sbatch`.

    Args:
        runtime: of the container; None without one.
    """
    step = in_step(server, runtime, ["-m workflow serve", shlex.join(server.arguments)])
    return assembled(server, "", _STOP, f"{step} &\n{WAITING}{_END}")
