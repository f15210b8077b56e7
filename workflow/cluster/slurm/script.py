"""The batch script of a job on Slurm as text, and what may not stand in it."""

import re
import shlex
from typing import Any

from workflow.cluster.containers import Runtime, run_inside
from workflow.cluster.job_record import LOG
from workflow.cluster.resources import Cluster, Submission, problems_of
from workflow.core.errors import Problem, shorten
from workflow.distributed.rendezvous import FIRST_PORT, PORTS

_OWN_LOG = "leave it out: the log is read by its place (`python3 -m workflow logs RUN`)"
_OWN_TASKS = "leave it out: a single task a machine starts all of its processes"
_OWN_STARTS = "leave it out: the script queues the job again itself; --max_restarts bounds it"
_OWN_PRIORITY = (
    "leave it out; name a partition or a quality of service instead: "
    "--slurm partition=NAME or --slurm qos=NAME"
)
_RESERVED = {
    "job-name": "write --name",
    "output": _OWN_LOG,
    "error": _OWN_LOG,
    "open-mode": _OWN_LOG,
    "nodes": "write --num_nodes",
    "ntasks": _OWN_TASKS,
    "ntasks-per-node": _OWN_TASKS,
    "cpus-per-task": "write --cpus_per_task",
    "mem": "write --memory",
    "time": "write --time",
    "dependency": "write --dependency",
    "requeue": _OWN_STARTS,
    "no-requeue": "write --max_restarts 0",
    "signal": "leave it out: the script asks for the signal at which it saves",
    "array": "leave it out: an array would start the same run several times; submit a job for each "
    "seed, with a --training_run_name of its own",
    "chdir": "leave it out: the script goes to the folder that it is submitted from",
    "export": "write --envs",
    "test-only": "write --dry_run",
    "parsable": "leave it out: it is given when the job is queued",
    "wrap": "leave it out: the script runs the job that stands behind the --",
    "wait": "leave it out; `python3 -m workflow logs -f RUN` follows the job",
}
"""Options that the script needs as they are, and what to do instead."""

_GPUS = frozenset({"gres", "gpus", "gpus-per-node", "gpus-per-task"})

_SCRIPT = """\
# Slurm sends USR1 before the time is up, and at some sites when the job has to make room. The run
# ends its step and saves when it sees the file `stop`; one that came before the run began does not
# count, so the file is written until the step ends. Before there is a run, nothing would be lost.
asked=
step=
stop() {{
  asked=yes
  echo "$(date '+%F %T') Slurm asks the job to stop: it saves, and is queued again"
  while [ -n "$step" ] && kill -0 "$step" 2>/dev/null; do
    if [ -e "$run/training_args.json" ]; then
      touch "$run/stop"
    else
      kill -TERM "$step"
    fi
    sleep 5
  done
}}
trap stop USR1

cd {where} || exit 1
{setup}
set +eu # whatever the lines above chose
cd {where} || exit 1
run={run}
folder={folder}
restarts=${{SLURM_RESTART_COUNT:-0}}

# A job that was cancelled is not running any more, and stays cancelled.
queue_again() {{
  if [ "$restarts" -ge {max_restarts} ]; then
    echo "started again {max_restarts} times: not once more (--max_restarts)" >&2
    return
  fi
  for _ in 1 2 3; do
    case $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) in
      RUNNING | SIGNALING | PREEMPTED) scontrol requeue "$SLURM_JOB_ID" && exit 0 ;;
      ?*) return ;;
    esac
    sleep 5
  done
}}

if [ "$restarts" -gt {max_restarts} ]; then # a machine that failed counts, too
  echo "started again {max_restarts} times: not once more (--max_restarts)" >&2
  exit 1
fi
touch "$folder/started"
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$(({first_port} + SLURM_JOB_ID % {ports}))
{command} &
step=$!
[ -z "$asked" ] || stop
wait "$step"
while kill -0 "$step" 2>/dev/null; do # a signal ended the waiting, not the step
  wait "$step"
done
wait "$step"
status=$?

# Launchers do not pass on how a process ended; the run's folder says it.
state=
if [ "$run/status.json" -nt "$folder/started" ]; then
  state=$(sed -n 's/^ *"state": *"\\([a-z]*\\)".*/\\1/p' "$run/status.json" | head -n 1)
  if grep -q '^ *"error": "interrupted"' "$run/status.json"; then
    state=interrupted # while the model was loaded
  fi
fi
case $state in
  done) exit 0 ;;
  failed) exit $((status > 0 ? status : 1)) ;;
  saved) [ "$status" -eq 0 ] || asked=yes ;; # by SIGTERM, after which torchrun fails
esac
if [ -n "$asked" ]; then
  queue_again
elif [ "$status" -ne 0 ] &&
  scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; then
  queue_again # SIGTERM came before the run had begun
fi
if [ "$state" = saved ]; then
  exit 75 # stopped, not done: a job that waits for this one is not to begin
fi
exit "$status"
"""


def script(submission: Submission, runtime: Runtime | None) -> str:
    """The batch script, whole: what `sbatch` takes.

    One task a machine, in which torchrun starts the processes. The script outlives them, and queues
    the job again where Slurm stopped it and the run could save.

    Args:
        runtime: what runs the container, where there is one.
    """
    body = _SCRIPT.format(
        run=shlex.quote(str(submission.run)),
        folder=shlex.quote(str(submission.job_folder)),
        max_restarts=submission.cluster.max_restarts,
        where=shlex.quote(str(submission.folder)),
        setup="\n".join(submission.setup_lines()),
        first_port=FIRST_PORT,
        ports=PORTS,
        command=_step(submission, runtime),
    )
    head = (
        "#!/bin/bash\n# Written by `python3 -m workflow submit slurm`; sbatch takes it as it is.\n"
    )
    return head + "".join(_directives(submission)) + "\n" + body


def _directives(submission: Submission) -> list[str]:
    cluster, margin = submission.cluster, submission.margin
    gpus = str(cluster.gpus_per_node)
    if cluster.time is not None:  # told before its end, but not before half of it
        margin = max(1, min(margin, cluster.time // 2))
    options: dict[str, Any] = {
        "job-name": cluster.name or submission.run_name,
        "output": str(submission.job_folder / LOG).replace("%", "%%"),
        "nodes": cluster.num_nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": f"{cluster.gpu_type}:{gpus}" if cluster.gpu_type else gpus,
        "cpus-per-task": cluster.cpus_per_task,
        "mem": None if cluster.memory is None else f"{int(cluster.memory / 2**20)}M",
        "time": None if cluster.time is None else _clock(cluster.time),
        "dependency": cluster.dependency,
        "kill-on-invalid-dep": None if cluster.dependency is None else "yes",
        "requeue": True,
        "open-mode": "append",
        "signal": f"B:USR1@{margin}",
    }
    own = {
        _option(name): True if value in (None, "", "true") else value  # --exclusive has none
        for name, value in (cluster.slurm or {}).items()
    }
    if not cluster.gpus_per_node or own.keys() & _GPUS:
        del options["gpus-per-node"]
    options |= own
    return [
        _directive(name, value) for name, value in options.items() if value not in (None, False)
    ]


def _directive(name: str, value: object) -> str:
    if value is True:
        return f"#SBATCH --{name}\n"
    text = str(value)
    if not re.fullmatch(r"[\w@%+=:,./\[\]()*-]*", text, re.ASCII):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={text}\n"


def _option(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _clock(seconds: int) -> str:
    """As Slurm writes lengths of time: D-HH:MM:SS."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"


def _step(submission: Submission, runtime: Runtime | None) -> str:
    """The step that runs the job on every machine."""
    python = "python3" if runtime else shlex.quote(str(submission.python))
    torchrun = [
        f"{python} -m torch.distributed.run",
        f"--nnodes={submission.cluster.num_nodes}",
        f"--nproc-per-node={submission.processes}",
        "--rdzv-backend=c10d",
        '--rdzv-endpoint="$address:$port"',
        '--rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        f"--shutdown-timeout={submission.margin}",
    ]
    job = " ".join([shlex.quote(str(submission.script)), *map(shlex.quote, submission.arguments)])
    # A single task would be bound to a single core, and its processes with it.
    parts = ["srun --kill-on-bad-exit=1 --cpu-bind=none --export=ALL", " ".join(torchrun), job]
    if runtime:
        options, inside = run_inside(runtime, submission)
        parts = [" ".join([parts[0], *options]), *inside, *parts[1:]]
    return " \\\n  ".join(parts)


def problems_of_words(cluster: Cluster) -> list[Problem]:
    """What is wrong with the words of the cluster part, as far as Slurm need not be asked."""
    problems = problems_of(cluster, "slurm", {"high_priority": _OWN_PRIORITY})
    for name, value in (cluster.slurm or {}).items():
        where, option = f"--slurm {shorten(name)}", _option(name)
        if option in _RESERVED:
            hint = _RESERVED[option]
            problems.append(Problem(where, f"the option --{option}", "another option", hint))
        elif not re.fullmatch(r"[a-z][a-z-]+", option):
            expected = "an option of sbatch by its long name, as partition"
            problems.append(Problem(where, "no name of an option", expected, "correct it"))
        elif not isinstance(value, str | int | float | bool | None) or "\n" in str(value):
            hint = "write it on one line, in quotes"
            problems.append(Problem(where, shorten(value), "a text, a number, true or false", hint))
        elif option in _GPUS and not cluster.gpus_per_node:
            hint = "add it: a process runs for each"
            problems.append(Problem(where, "no --gpus_per_node", "the GPUs of each machine", hint))
    if "\n" in (cluster.name or ""):
        problems.append(Problem("--name", shorten(cluster.name), "one line", "choose another name"))
    if cluster.kubernetes:
        hint = "leave it out, or submit to Kubernetes"
        problems.append(Problem("--kubernetes", "settings", "none on Slurm", hint))
    return problems
