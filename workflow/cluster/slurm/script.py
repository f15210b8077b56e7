"""The batch script of a Slurm job, and the #SBATCH options that it reserves."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from workflow.cluster.containers import DOCKER, RUN_ON_GPUS, Runtime, run_inside
from workflow.cluster.job_record import LOG, TEXT
from workflow.cluster.resources import Cluster, Submission, problems_of
from workflow.core.errors import Problem, shorten
from workflow.distributed.rendezvous import FIRST_PORT, PORTS

_OWN_LOG = "remove it, and read the log with `python3 -m workflow logs RUN`"
_OWN_TASKS = "remove it; one task per node starts all processes of the node"
_OWN_REQUEUE = "remove it, and limit the script's own requeues with --max_restarts"
_HINTS = {
    "high_priority": "remove it, and set --slurm partition=NAME or --slurm qos=NAME",
    "kubernetes": "remove it, or submit to Kubernetes",
}
_RESERVED = {
    "job-name": "use --name",
    "output": _OWN_LOG,
    "error": _OWN_LOG,
    "open-mode": _OWN_LOG,
    "nodes": "use --num_nodes",
    "ntasks": _OWN_TASKS,
    "ntasks-per-node": _OWN_TASKS,
    "cpus-per-task": "use --cpus_per_task",
    "mem": "use --memory",
    "time": "use --time",
    "dependency": "use --dependency",
    "requeue": _OWN_REQUEUE,
    "no-requeue": "use --max_restarts 0",
    "signal": "remove it; the script sets the signal on which the run saves",
    "array": "remove it; `python3 -m workflow sweep` submits arrays",
    "chdir": "remove it; the job runs in the folder that it is submitted from",
    "export": "use --envs",
    "test-only": "use --dry_run",
    "parsable": "remove it; submit sets it",
    "wrap": "remove it; the script runs the job given after the --",
    "wait": "remove it, and follow the job with `python3 -m workflow logs -f RUN`",
}
"""Options that the script sets itself, and the remedies."""

_GPUS = frozenset({"gres", "gpus", "gpus-per-node", "gpus-per-task"})

_STOP = """\
# Slurm sends USR1 before the time limit, and at some sites before preemption. The run saves and
# exits when it sees the file `stop`. It ignores a file older than its start, so the file is touched
# until srun ends. Before the run starts there is nothing to save, and SIGTERM ends it.
stopping=
step=
stop() {
  stopping=yes
  echo "$(date '+%F %T') received USR1 from Slurm: saving, then requeueing the job"
  while [ -n "$step" ] && kill -0 "$step" 2>/dev/null; do
    if [ -e "$run/training_args.json" ]; then
      touch "$run/stop"
    else
      kill -TERM "$step"
    fi
    sleep 5
  done
}
trap stop USR1

"""
BEGINNING = """\
cd {where} || exit 1
{setup}
set +eu # undo what setup may have set
cd {where} || exit 1
{names}restarts=${{SLURM_RESTART_COUNT:-0}}
# One task of an array may have the number of the whole array.
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_}}${{SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}}

# Requeue the job if Slurm reports it as running: a cancelled job must stay cancelled.
requeue() {{
  if [ "$restarts" -ge {max_restarts} ]; then
    echo "not requeued: reached the limit of {max_restarts} restarts (--max_restarts)" >&2
    return
  fi
  for _ in 1 2 3; do
    case $(squeue --noheader --jobs="$job" --format=%T) in
      RUNNING | SIGNALING | PREEMPTED) scontrol requeue "$job" && exit 0 ;;
      ?*) return ;;
    esac
    sleep 5
  done
}}

if [ "$restarts" -gt {max_restarts} ]; then # Slurm's own requeues after node failures count too
  echo "not restarted: reached the limit of {max_restarts} restarts (--max_restarts)" >&2
  exit 1
fi
"""

_STEP = """\
touch "$folder/started"
{meet}
ulimit -S -l hard # InfiniBand needs locked memory; srun passes the limit on
port=$(({first_port} + SLURM_JOB_ID % {ports}))
{command} &
"""
WAITING = """\
step=$!
[ -z "$stopping" ] || stop
wait "$step"
while kill -0 "$step" 2>/dev/null; do # a signal ended wait, not srun
  wait "$step"
done
wait "$step"
status=$?
"""
_END = """
# torchrun hides the exit status of the processes: read the state from the run's folder.
state=
if [ "$run/status.json" -nt "$folder/started" ]; then
  state=$(sed -n 's/^ *"state": *"\\([a-z]*\\)".*/\\1/p' "$run/status.json" | head -n 1)
  if grep -q '^ *"error": "interrupted"' "$run/status.json"; then
    state=interrupted # while loading the model
  fi
fi
case $state in
  done) exit 0 ;;
  failed) exit $((status > 0 ? status : 1)) ;;
  saved) [ "$status" -eq 0 ] || stopping=yes ;; # by SIGTERM, after which torchrun fails
esac
if [ -n "$stopping" ]; then
  requeue
elif [ "$status" -ne 0 ] &&
  scontrol --oneliner show job "$job" | grep -q ' PreemptTime=[0-9]'; then
  requeue # preempted before the run started
fi
if [ "$state" = saved ]; then
  exit 75 # stopped, not done: dependent jobs must not start
fi
exit "$status"
"""

_HERE = "address=127.0.0.1"
_FIRST_NODE = """\
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Its NodeAddr, where Slurm itself reaches it: the name may be Slurm's alone.
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
address=${address:-$first}"""


def script(submission: Submission, runtime: Runtime | None) -> str:
    """Return the complete batch script for `sbatch`.

    Each node has one task, in which torchrun starts the processes. The script outlives them, and
    requeues the job if Slurm stopped it and the run saved.

    Args:
        runtime: of the container; None without one.
    """
    run, folder = (shlex.quote(str(path)) for path in (submission.run, submission.job_folder))
    more = _STEP.format(
        meet=_FIRST_NODE if submission.cluster.num_nodes > 1 else _HERE,
        first_port=FIRST_PORT,
        ports=PORTS,
        command=_step(submission, runtime),
    )
    names = f"run={run}\nfolder={folder}\n"
    return assembled(submission, names, _STOP, more + WAITING + _END)


def assembled(submission: Submission, names: str, stop: str, rest: str) -> str:
    """Return a whole script: the options, how a signal stops it, the beginning and the rest."""
    beginning = BEGINNING.format(
        max_restarts=submission.cluster.max_restarts,
        where=shlex.quote(str(submission.folder)),
        setup="\n".join(submission.setup_lines()),
        names=names,
    )
    head = "#!/bin/bash\n# Written by `python3 -m workflow submit slurm` for sbatch.\n"
    return head + "".join(_directives(submission)) + "\n" + stop + beginning + rest


def array_script(runs: Sequence[Submission], name: str, at_once: int | None) -> str:
    """The batch script of an array, whose tasks run the scripts in their runs' job folders."""
    margin = max(run.margin for run in runs)
    options = _directives(dataclasses.replace(runs[0], run_name=name, margin=margin))
    limit = "" if at_once is None else f"%{at_once}"
    options.append(_directive("array", f"0-{len(runs) - 1}{limit}"))
    head = "#!/bin/bash\n# Written by `python3 -m workflow sweep` for sbatch.\n"
    folders = [shlex.quote(str(run.job_folder)) for run in runs]
    cases = "".join(f"{index}) folder={folder} ;;\n" for index, folder in enumerate(folders))
    run = f'exec >>"$folder/{LOG}" 2>&1\nexec /bin/bash "$folder/{TEXT}"\n'
    return f"{head}{''.join(options)}\ncase $SLURM_ARRAY_TASK_ID in\n{cases}esac\n{run}"


def _directives(submission: Submission) -> list[str]:
    cluster, margin = submission.cluster, submission.margin
    gpus = str(cluster.gpus_per_node)
    if cluster.time is not None:  # signalled at half of the time limit or later
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
        _option(name): True if value in (None, "", "true") else value  # e.g. --exclusive
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
    """Format a duration for Slurm: D-HH:MM:SS."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"


def _step(submission: Submission, runtime: Runtime | None) -> str:
    """Return the command that runs the job on every node."""
    node = shlex.quote(str(submission.project / "workflow/cluster/slurm/node.py"))
    torchrun = [
        f'{node} "$address" "$port"',
        f"--nnodes={submission.cluster.num_nodes} --nproc-per-node={submission.processes}",
        '--rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        f"--shutdown-timeout={submission.margin}",
    ]
    job = " ".join([shlex.quote(str(submission.script)), *map(shlex.quote, submission.arguments)])
    return in_step(submission, runtime, [*torchrun, job])


def in_step(submission: Submission, runtime: Runtime | None, words: Sequence[str]) -> str:
    """Return the srun command that runs Python on every node, and what it needs before."""
    python = "python3" if runtime else shlex.quote(str(submission.python))
    # Without --cpu-bind=none a single task and all its processes may be bound to a single core.
    parts = [
        "srun --kill-on-bad-exit=1 --cpu-bind=none --export=ALL",
        f"{python} {words[0]}",
        *words[1:],
    ]
    if runtime:
        options, inside = run_inside(runtime, submission)
        parts = [parts[0], *options, *inside, *parts[1:]]
    step = " \\\n  ".join(parts)
    on_docker = runtime and runtime.name == DOCKER and submission.cluster.gpus_per_node
    return RUN_ON_GPUS + step if on_docker else step


def problems_of_words(cluster: Cluster) -> list[Problem]:
    """Report problems of the cluster flags that are found without querying Slurm."""
    problems = problems_of(cluster, "slurm", _HINTS)
    for name, value in (cluster.slurm or {}).items():
        where, option = f"--slurm {shorten(name)}", _option(name)
        if option in _RESERVED:
            found = f"the script sets --{option} itself"
            problems.append(Problem(where, found, "another option", _RESERVED[option]))
        elif not re.fullmatch(r"[a-z][a-z-]+", option):
            expected = "a long option of sbatch, e.g. partition"
            problems.append(Problem(where, "not a long option", expected, "correct the name"))
        elif not isinstance(value, str | int | float | bool | None) or "\n" in str(value):
            hint = "write it on one line, in quotes"
            expected = "a string, number, true or false"
            problems.append(Problem(where, shorten(value), expected, hint))
        elif option in _GPUS and not cluster.gpus_per_node:
            hint = "add --gpus_per_node N: one process runs per GPU"
            problems.append(Problem(where, "set without --gpus_per_node", "GPUs per node", hint))
    if "\n" in (cluster.name or ""):
        problems.append(Problem("--name", shorten(cluster.name), "one line", "choose another name"))
    return problems
