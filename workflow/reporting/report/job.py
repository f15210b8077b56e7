"""What a run was asked for and where it ran: its data, job, starts, and how to repeat it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.config.parse import as_arguments, make_job
from workflow.core.errors import BadInput
from workflow.data.audit import figures, warnings_of
from workflow.reporting.report.blocks import Block, Table, Text, shown
from workflow.reporting.report.summary import moment
from workflow.runs.mount import find_mount
from workflow.runs.status import SPEC_FILE

WORST = 9
"""The severity of a warning from which on it is told beside the verdict."""
_VERSIONS = ("workflow", "python", "torch", "transformers", "deepspeed", "tokenizers", "numpy")


def data_blocks(audit: dict[str, Any]) -> list[Block]:
    """What the data audit found; nothing where there was none."""
    if not audit:
        return []
    warnings = [str(warning) for warning in warnings_of(audit)]
    return [Text(figures(audit), code=True), *([Text(warnings)] if warnings else [])]


def warnings(audit: dict[str, Any]) -> list[str]:
    """The worst of that, which is to be minded of every metric."""
    try:
        found = warnings_of(audit) if audit else []
    except (KeyError, TypeError, AttributeError):  # of another form, as its own part says
        return []
    return [f"{one.text}. Hint: {one.remedy}." for one in found if one.severity >= WORST]


def job_blocks(run: Path, spec: dict[str, Any], starts: Sequence[dict[str, Any]]) -> list[Block]:
    """How to do the run again, and every flag as it was resolved."""
    rows = [[name, shown(value)] for name, value in sorted(spec.items()) if value is not None]
    blocks: list[Block] = [
        Text(["The same job under another name, with all that machine and data decided:"]),
        Text([command_again(run, spec)], code=True),
    ]  # fmt: skip
    if starts and starts[-1].get("command"):
        blocks += [
            Text(["As it was asked for:"]),
            Text([shlex.join(starts[-1]["command"])], code=True),
        ]
    return [*blocks, Table(["flag", ""], rows, folded="every flag of the job")]


def command_again(run: Path, spec: dict[str, Any]) -> str:
    """The command that asks for exactly this job, under another name."""
    root, name = place_of(run)
    again = f"{name}_again"
    values = spec | {"training_run_name": again}
    task = str(values.pop("task"))
    try:
        flags = as_arguments(make_job(task, **values))
    except BadInput:  # a job of another version
        flags = ("--config", str(run / SPEC_FILE), "--training_run_name", again)
    mount = () if root in (None, find_mount(None).root) else ("--mount", str(root))
    return shlex.join(["python3", f"{task}.py", *mount, *flags])


def place_of(run: Path) -> tuple[Path | None, str]:
    """The mount of a run's folder, where it lies in one, and the run's name there."""
    for models in list(run.parents)[:2]:
        if models.name == "models":
            return models.parent, str(run.relative_to(models))
    return None, run.name


def starts_blocks(starts: Sequence[dict[str, Any]]) -> list[Block]:
    """Every start of the run, the newest last; nothing of a run that did not note them."""
    if not starts:
        return []
    last = starts[-1]
    rows = [
        [
            moment(one.get("time")),
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
