"""Kill a job repeatedly at random times, and compare its final result.

A job can die at any time, so the kills cover everything that it does. No completely written file
may be damaged, and the run must end like an undisturbed one, bit for bit.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
from conftest import ROOT, make_mount
from safetensors.torch import load_file

from workflow.core.checksums import find_damage, has_checksums
from workflow.runs.checkpoint import can_resume, find_checkpoints
from workflow.runs.lock import find_holder
from workflow.runs.mount import Mount
from workflow.runs.status import STARTS, read_status

FLAGS = (
    "--model_init_name small --data sums --train_batch_size 6 --learning_rate 1e-3 --bf16 false "
    "--logging_steps 7 --eval_steps 20 --save_steps 11 --save_total_limit 2 --max_new_tokens 5"
)
MEASURED = ("time", "second", "seconds", "memory_gb")  # so end names that differ from run to run


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, of which a killed job may have torn the last."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Start:
    """One start of the command, and what its run's folder tells of it."""

    def __init__(self, mount: Mount, name: str, flags: list[str]):
        self.run, self.began, self._mount = mount.models / name, time.time(), str(mount.root)
        self._earlier = set(self.run.glob(".checkpoint-*"))
        self._output = mount.root.parent / f"{name}-{self.began:.2f}.log"
        words = ["seq2seq.py", "--mount", self._mount, "--training_run_name", name, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self._output, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=environment, stdout=file, stderr=file
            )

    def is_at(self, kind: str, lines: int) -> bool:
        """Whether the job is where it is to be disturbed, after so many lines, or has ended."""
        if kind == "early" or self.process.poll() is not None:
            return True
        if kind == "claiming":
            return find_holder(self.run) is not None
        if kind == "saving" and not self.is_saving():
            return False
        log = read_lines(self.run / "train_log.jsonl")
        steps = [line["step"] for line in log if line["time"] > self.began]
        return len(steps) >= lines and (kind != "evaluating" or -steps[-1] % 20 < 7)  # see FLAGS

    def is_saving(self) -> bool:
        """Whether a checkpoint is, or was left by the kill, half-written or half-removed."""
        return bool(set(self.run.glob(".checkpoint-*")) - self._earlier)

    def kill(self, kind: str, within: float, rng: random.Random) -> bool:
        """SIGKILL one of its processes and see all of them gone; False where the job had ended."""
        lines, last = rng.randint(1, 3), time.monotonic() + 300  # not always the first save
        while not self.is_at(kind, lines):
            assert time.monotonic() < last, f"not {kind}: {self.told()}"
            time.sleep(0.001)
        time.sleep(rng.uniform(0, within))
        victims = self.processes()
        if not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            rng.choice(victims).kill()
        last = time.monotonic() + 15
        while (left := self.processes()) or self.process.poll() is None:
            assert time.monotonic() < last, f"{left} live on of {victims}: {self.told()}"
            time.sleep(0.05)
        assert self.process.returncode in (0, -9, 128 + 9), self.told()
        return self.process.returncode != 0

    def processes(self) -> list[psutil.Process]:
        """Launcher and workers: nobody else has this mount among the arguments."""
        found = psutil.process_iter(["cmdline"])
        return [process for process in found if self._mount in (process.info["cmdline"] or [])]

    def told(self) -> str:
        return f"{self._output}, status {self.process.poll()}:\n{self._output.read_text()}"


def check(run: Path, before: list[int]) -> list[int]:
    """Checkpoints are whole; returns the newest, not stripped yet: at most one more than before."""
    for part in [*run.glob("checkpoint-*"), *run.glob("checkpoint-*/resume")]:
        assert has_checksums(part) and find_damage(part) == [], (part, find_damage(part))
        assert [load_file(file) for file in part.glob("*.safetensors")], part
    steps = find_checkpoints(run)
    kept = [step for step in steps if can_resume(run / f"checkpoint-{step}")]
    told = f"of {steps}, {kept} have resume/; {before} had"
    assert kept == steps[-len(kept) :], told  # all of them where none is kept
    assert len(kept) <= len(before) + 1 and max(kept, default=0) >= max(before, default=0), told
    return kept


def contents(run: Path) -> dict[str, Any]:
    """What a run's folder holds, but for what may differ from run to run."""
    found: dict[str, Any] = {str(path.relative_to(run)): "there" for path in run.rglob("*")}
    for name in list(found):
        if name.endswith(".jsonl") and name != STARTS:  # of which one that is killed has more
            for n, line in enumerate(read_lines(run / name)):
                found[f"{name}[{n}]"] = {k: line[k] for k in line if not k.endswith(MEASURED)}
        elif name.endswith(".safetensors"):
            for key, tensor in load_file(run / name).items():
                found[f"{name}[{key}]"] = hash(tensor.numpy().tobytes())
        elif name.startswith("temperature="):
            items = json.loads((run / name).read_text())
            found[name] = [[g["full_generated"] for g in item["generations"]] for item in items]
    return found


def assert_finished(start: Start, plain: Start, was_cut: bool) -> None:
    """The job has ended by itself, as one that was left alone, and left nothing lying about."""
    assert start.process.wait(300) == 0, start.told()
    found, wanted = contents(start.run), contents(plain.run)
    for name in sorted(found | wanted):
        assert found.get(name) == wanted.get(name), (name, found.get(name), wanted.get(name))
    assert not [name for name in found if "/." in f"/{name}" or name == "lock.json"], found.keys()
    status = read_status(start.run)
    assert (status["state"], status["restarts"] > 0) == ("done", was_cut), status


def run_chaos(
    folder: Path, rounds: int, seed: int, processes: int = 1, zero_stage: int | None = None
) -> str:
    """Kill a job in so many rounds, but where it ends before, then let it end; returns a summary.

    Raises AssertionError for all that is not as in a run that was left alone.
    """
    print(f"chaos: seed {seed}, in {folder}", flush=True)
    began, rng, mount = time.monotonic(), random.Random(seed), make_mount(folder / "mount")
    flags = f"{FLAGS} --dropout_rate 0.1 --max_steps {440 // processes} --num_processes {processes}"
    words = flags.split() + ([] if zero_stage is None else ["--zero_stage", str(zero_stage)])
    killed, in_save, went_on, finished = list[str](), 0, list[str](), 0
    kept, was_cut = list[int](), False
    kind, plain = "left alone", Start(mount, "plain", words)
    try:
        assert_finished(plain, plain, was_cut)
        log = read_lines(plain.run / "train_log.jsonl")
        step = (log[-1]["time"] - log[0]["time"]) / log[-1]["step"]
        within = {"early": log[0]["time"] - plain.began, "claiming": 0.5, "stepping": 60 * step,
                  "evaluating": 8 * step, "saving": 0.025}  # fmt: skip
        for kind in [*rng.sample(([*within, "saving"] * rounds)[:rounds], rounds), "to the end"]:
            job = Start(mount, f"chaos-{finished + 1}", words)
            if kind in within and job.kill(kind, within[kind], rng):
                killed.append(kind)
                in_save += job.is_saving()
                kept = check(job.run, kept)
                was_cut = job.run.exists() and (was_cut or read_status(job.run)["state"] != "done")
            else:
                assert_finished(job, plain, was_cut)
                again = Start(mount, job.run.name, words)
                assert_finished(again, plain, was_cut)
                assert "this job is done already" in again.told(), again.told()
                kept, was_cut, finished = [], False, finished + 1
            went_on += re.findall(r"resuming from (\S+) at", job.told())
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind} after {len(killed)} kills: {error}") from error
    finally:
        for process in plain.processes():
            process.kill()
    by_kind = ", ".join(f"{killed.count(kind)} {kind}" for kind in within)
    return (
        f"chaos, seed {seed}, {processes} processes, ZeRO stage {zero_stage}: {len(killed)} kills "
        f"in {rounds} rounds ({by_kind}), {in_save} in a save; {len(went_on)} starts went on from "
        f"{len(set(went_on))} checkpoints; {finished} runs ended as the one left alone; "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, default in (("rounds", 20), ("seed", random.randrange(10**6)), ("processes", 1)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--zero_stage", type=int)
    made = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(run_chaos(made, **vars(parser.parse_args())))
    shutil.rmtree(made)  # it stays where something was wrong, to be looked at
