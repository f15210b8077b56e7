"""What a run was asked for and where it ran: its data, job, starts, and how to repeat it."""

import json
import shlex
import time
from collections.abc import Sequence
from typing import Any

from workflow.audit import render
from workflow.command import as_arguments, make_job
from workflow.report.blocks import Block, Table, Text

_VERSIONS = ("workflow", "python", "torch", "transformers", "deepspeed", "tokenizers", "numpy")


def data_blocks(audit: dict[str, Any]) -> list[Block]:
    """What the data audit found; nothing where there was none."""
    return [Text(render(audit), code=True)] if audit else []


def job_blocks(spec: dict[str, Any], starts: Sequence[dict[str, Any]]) -> list[Block]:
    """How to do the run again, and every flag as it was resolved."""
    rows = [[name, _shown(value)] for name, value in sorted(spec.items()) if value is not None]
    blocks: list[Block] = [
        Text(["The same job under another name, with all that machine and data decided:"]),
        Text([command_again(spec)], code=True),
    ]  # fmt: skip
    if starts and starts[-1].get("command"):
        blocks += [
            Text(["As it was asked for:"]),
            Text([shlex.join(starts[-1]["command"])], code=True),
        ]
    return [*blocks, Table(["flag", ""], rows, folded="every flag of the job")]


def command_again(spec: dict[str, Any]) -> str:
    """The command that asks for exactly this job, under another name."""
    values = spec | {"training_run_name": f"{spec.get('training_run_name')}_again"}
    job = make_job(values.pop("task"), **values)
    return shlex.join(["python3", f"{job.task}.py", *as_arguments(job)])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def starts_blocks(starts: Sequence[dict[str, Any]]) -> list[Block]:
    """Every start of the run, the newest last; nothing of a run that did not note them."""
    if not starts:
        return []
    last = starts[-1]
    rows = [
        [
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.get("time", 0))),
            str(one["step"]), str(one.get("host")), str(one.get("job_id") or "–"),
            str(one.get("processes")),
        ]
        for one in starts
    ]  # fmt: skip
    machine = [
        ["device", f"{last.get('device')}"],
        ["cores, memory", f"{last.get('cores')}, {last.get('memory_gb')} GB"],
        ["system", f"{last.get('system')}"],
        *([name, f"{last[name]}"] for name in _VERSIONS if last.get(name)),
    ]
    table = Table(["started", "after step", "host", "Slurm job", "processes"], rows)
    return [table, Table(["", "at the last start"], machine)]
