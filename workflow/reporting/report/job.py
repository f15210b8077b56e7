"""Sections on a run's data, config, command and environment."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.config.parse import as_arguments, make_job
from workflow.core.errors import BadInput
from workflow.core.tables import as_lines
from workflow.data.audit import figures, warnings_of
from workflow.reporting.report.blocks import Block, Table, Text, shown
from workflow.reporting.report.summary import moment
from workflow.runs.mount import find_mount
from workflow.runs.status import SPEC_FILE

WORST = 9
"""Minimum severity of data warnings that are shown with the verdict."""
_VERSIONS = ("workflow", "python", "torch", "transformers", "deepspeed", "tokenizers", "numpy")


def data_blocks(audit: dict[str, Any]) -> list[Block]:
    """The results of the data audit; empty without an audit."""
    if not audit:
        return []
    warnings = [str(one) for one in warnings_of(audit)]
    return [Text(as_lines(figures(audit)), code=True), *([Text(warnings)] if warnings else [])]


def warnings(audit: dict[str, Any]) -> list[str]:
    """The audit's warnings that affect every metric."""
    try:
        found = warnings_of(audit) if audit else []
    except (KeyError, TypeError, AttributeError):  # malformed, as its own section reports
        return []
    return [f"{one.text}. Hint: {one.remedy}" for one in found if one.severity >= WORST]


def job_blocks(run: Path, spec: dict[str, Any], starts: Sequence[dict[str, Any]]) -> list[Block]:
    """The commands of the run, and all flags with their resolved values."""
    rows = [[name, shown(value)] for name, value in sorted(spec.items()) if value is not None]
    blocks: list[Block] = [
        Text(["To repeat the run under another name, with all resolved values:"]),
        Text([command_again(run, spec)], code=True),
    ]  # fmt: skip
    if starts and starts[-1].get("command"):
        blocks += [
            Text(["Command of the last start:"]),
            Text([shlex.join(starts[-1]["command"])], code=True),
        ]
    return [*blocks, Table(["flag", "value"], rows, folded="all flags")]


def command_again(run: Path, spec: dict[str, Any]) -> str:
    """The command that repeats this job under another name."""
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
    """The mount of a run's folder, None outside of a mount, and the run's name."""
    for models in list(run.parents)[:2]:
        if models.name == "models":
            return models.parent, str(run.relative_to(models))
    return None, run.name


def starts_blocks(starts: Sequence[dict[str, Any]]) -> list[Block]:
    """All starts of the run, the newest last, and the environment of the last."""
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
    return [table, Table(["", "last start"], machine)]
