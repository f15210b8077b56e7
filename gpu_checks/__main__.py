"""Run every check in a process of its own: a line each, and all that was measured as JSON."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks import ROOT
from benchmarks.processes import environment_alone
from gpu_checks.place import FIGURES, OUTCOME
from workflow.core.files import write_json

TOTAL = 600.0
"""Seconds in all."""
KEPT_LINES = 40
"""Of the output of a check that failed."""


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        function: module:name of a function of a Place, which returns what to print.
        limit: in seconds.
        alone: whether it needs the machine for itself, to measure time or memory.
    """

    function: str
    limit: float
    alone: bool = False


CHECKS = {
    "machine": Check("gpu_checks.machine:machine", 90, alone=True),
    "attention": Check("gpu_checks.attention:attention", 120),
    "losses": Check("gpu_checks.training:losses", 150),
    "readme": Check("gpu_checks.readme:readme", 180),
    "repeat": Check("gpu_checks.training:repeat", 200),
    "oom": Check("gpu_checks.memory:out_of_memory", 120),
    "waits": Check("gpu_checks.waits:waits", 120),
    "zero": Check("gpu_checks.training:zero", 200, alone=True),
    "memory": Check("gpu_checks.memory:peaks", 180, alone=True),
    "decoding": Check("gpu_checks.speed:decoding", 120, alone=True),
    "speed": Check("gpu_checks.speed:training", 300, alone=True),
}
"""By name, in order; the last ones get less time where the first took long."""


@dataclass
class Run:
    """One call of the script: its settings, and what its checks found so far.

    Attributes:
        end: the time at which all must have ended.
    """

    folder: Path
    processes: int
    file: Path | None
    end: float
    found: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    lock: Lock = field(default_factory=Lock)
    running: set[int] = field(default_factory=set)

    def add(self, name: str, result: Mapping[str, Any]) -> None:
        """Print a check's line, and write the file anew."""
        with self.lock:
            self.found[name] = result
            said = f"{result['outcome']}: {result['said']}"
            print(f"{name:<10}{result['seconds']:5.0f} s  {said}", flush=True)
            self.write()

    def write(self, complete: bool = False) -> None:
        """Write all that was found to the file, if there is one."""
        if self.file is not None:
            content = {
                "time": self.started,
                "seconds": round(time.time() - self.started, 1),
                "complete": complete,
                "processes": self.processes,
                "checks": self.found,
            }
            write_json(self.file, content)

    def kill(self) -> None:
        """End the processes of checks that still run."""
        for process in list(self.running):
            _kill_group(process)


def main(words: Sequence[str] | None = None, checks: Mapping[str, Check] = CHECKS) -> int:
    """Run the checks that a command line names; returns 1 if one failed."""
    arguments = _parser(checks).parse_args(words)
    chosen = {name: checks[name] for name in checks if name in (arguments.only or checks)}
    with tempfile.TemporaryDirectory(prefix="gpu_checks-", ignore_cleanup_errors=True) as folder:
        run = Run(Path(folder), arguments.processes, arguments.json, time.time() + TOTAL)
        try:
            run.write()
        except OSError as error:
            print(f"--json: {error} (expected a file that can be written)", file=sys.stderr)
            return 2
        try:
            _run_all(run, chosen)
        except KeyboardInterrupt:
            return 130
        finally:
            run.kill()
        run.write(complete=True)
    outcomes = [result["outcome"] for result in run.found.values()]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("ok", "FAIL", "skip"))
    print(f"{counts}; {time.time() - run.started:.0f} s")
    return int("FAIL" in outcomes)


def _parser(checks: Mapping[str, Check]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/test_gpu",
        description="Check and measure this project on this machine's GPUs, within ten minutes. "
        "Without a GPU, what can run on a CPU does.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="GPUs to use, one process each [1]"
    )
    parser.add_argument("--only", action="append", choices=list(checks), help="run only this check")
    return parser


def _run_all(run: Run, checks: Mapping[str, Check]) -> None:
    """The first check, then those that may run at the same time, then the others in turn."""
    first, *others = checks
    together = [name for name in others if not checks[name].alone]
    rest = [name for name in others if checks[name].alone]
    _run_check(run, first, checks[first])
    at_once = max(1, min(4, (os.cpu_count() or 1) // 4))
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for done in [pool.submit(_run_check, run, name, checks[name]) for name in together]:
                done.result()
        except BaseException:
            run.end = 0.0
            run.kill()
            raise
    for name in rest:
        _run_check(run, name, checks[name])


def _run_check(run: Run, name: str, check: Check) -> None:
    """Run a check in its own processes, and add its result; nothing that it does stops others."""
    began = time.time()
    limit = min(check.limit, run.end - began)
    if limit <= 0 < check.limit:
        run.add(name, {"outcome": "skip", "said": f"{TOTAL:.0f} s are over", "seconds": 0.0})
        return
    folder = run.folder / name
    folder.mkdir()
    settings = {
        "folder": str(folder),
        "layouts": str(run.folder / "layouts"),
        "processes": run.processes,
        "end": began + limit,
    }
    output = folder / "output.txt"
    status = _run_child(run, check.function, settings, output)
    found = _read(folder / OUTCOME) or {
        "outcome": "FAIL",
        "said": _ending(status, limit) + _last_line(output),
    }
    seconds = round(time.time() - began, 1)
    result = found | {"seconds": seconds, "figures": _read(folder / FIGURES)}
    if result["outcome"] == "FAIL":
        text = output.read_text(encoding="utf-8", errors="replace")
        result["output"] = text.splitlines()[-KEPT_LINES:]
    run.add(name, result)


def _run_child(run: Run, function: str, settings: Mapping[str, Any], output: Path) -> int | None:
    """The exit status of a check's process; None if it did not end in time."""
    words = [sys.executable, "-m", "gpu_checks.child", function, json.dumps(settings)]
    with output.open("wb") as file:
        child = subprocess.Popen(
            words, cwd=ROOT, env=_environment(run.processes), stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        run.running.add(child.pid)
        try:
            return child.wait(max(0.0, settings["end"] - time.time()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(child.pid)
            child.wait()
            run.running.discard(child.pid)


def _environment(processes: int) -> dict[str, str]:
    """This process's, outside of any world of processes, with the first GPUs alone visible."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(processes))))
    first = ",".join(visible.split(",")[:processes])
    return environment_alone() | {"CUDA_VISIBLE_DEVICES": first}


def _kill_group(process: int) -> None:
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ending(status: int | None, limit: float) -> str:
    if status is None:
        return f"no end in {limit:.0f} s"
    return f"ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _last_line(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((f"; {line.strip()}" for line in reversed(lines) if line.strip()), "")


def _read(file: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return content


if __name__ == "__main__":
    sys.exit(main())
