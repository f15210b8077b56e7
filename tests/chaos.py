"""Kills a job again and again, at moments drawn at random, and compares what comes out in the end.

Durability is a promise about moments that nobody foresees: so kills are spread over loading,
claiming the folder, stepping, evaluating and saving. Whatever they hit, nothing that was written
whole may be damaged, and the run must end as one that was left alone, bit for bit.
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

from workflow.checkpoint import can_go_on, find_checkpoints
from workflow.checksums import find_damage, has_checksums
from workflow.lock import find_holder
from workflow.mount import Mount
from workflow.run_folder import read_status

FLAGS = (
    "--model_init_name small --data sums --train_batch_size 6 --learning_rate 1e-3 --bf16 false "
    "--logging_steps 7 --eval_steps 20 --save_steps 11 --save_total_limit 2 --max_new_tokens 5 "
    "--dropout_rate 0.1"
)
GONE_SECONDS, PATIENCE_SECONDS = 15.0, 300.0
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

    def wait(self, seconds: float, kind: str = "the end", lines: int = 0) -> None:
        """Wait so long, or until the job is where it is to be disturbed, or has ended."""
        last = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < last:
            if self._is_at(kind, lines):
                break
            time.sleep(0.001)

    def _is_at(self, kind: str, lines: int) -> bool:
        if kind in ("early", "claiming", "the end"):
            return kind == "early" or (kind == "claiming" and find_holder(self.run) is not None)
        if kind == "saving" and not self.is_saving():
            return False
        log = read_lines(self.run / "train_log.jsonl")
        steps = [line["step"] for line in log if line["time"] > self.began]
        near = kind != "evaluating" or -max(steps, default=1) % 20 < 7  # before the next line
        return near and len(steps) >= lines

    def is_saving(self) -> bool:
        """Whether a checkpoint is, or was left by the kill, half-written or half-removed."""
        return bool(set(self.run.glob(".checkpoint-*")) - self._earlier)

    def kill(self, kind: str, within: float, rng: random.Random) -> bool:
        """SIGKILL one of its processes and see all of them gone; False where the job had ended."""
        self.wait(PATIENCE_SECONDS, kind, lines=rng.randint(1, 3))  # not always the first save
        self.wait(rng.uniform(0, within))
        victims = self.processes()
        if self.process.poll() is not None or not victims:
            return False
        with suppress(psutil.NoSuchProcess):
            rng.choice(victims).kill()
        last = time.monotonic() + GONE_SECONDS
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
    """What is whole stays whole; returns the steps of the checkpoints that can be gone on from.

    Those are one more than before, at most: the kill may come before older ones are stripped.
    """
    steps = find_checkpoints(run)
    for folder in [run / f"checkpoint-{step}" for step in steps]:
        for part in [folder, *folder.glob("resume")]:
            assert has_checksums(part) and find_damage(part) == [], (part, find_damage(part))
        load_file(folder / "model.safetensors")
    kept = [step for step in steps if can_go_on(run / f"checkpoint-{step}")]
    told = f"of {steps}, {kept} have resume/; {before} had"
    assert kept == steps[len(steps) - len(kept) :] and bool(kept) == bool(steps), told
    assert len(kept) <= len(before) + 1 and max(kept, default=0) >= max(before, default=0), told
    return kept


def contents(run: Path) -> dict[str, Any]:
    """What a run's folder holds, but for what may differ from run to run."""
    found: dict[str, Any] = {str(path.relative_to(run)): "there" for path in run.rglob("*")}
    for name in found:
        if name.endswith(".jsonl"):
            lines = read_lines(run / name)
            found[name] = [{k: v for k, v in a.items() if not k.endswith(MEASURED)} for a in lines]
        elif name.endswith(".safetensors"):
            found[name] = {k: hash(v.numpy().tobytes()) for k, v in load_file(run / name).items()}
        elif name.startswith("temperature="):
            items = json.loads((run / name).read_text())
            found[name] = [[g["full_generated"] for g in item["generations"]] for item in items]
    return found


def assert_finished(start: Start, plain: Start, was_cut: bool) -> None:
    """The job has ended by itself, as one that was left alone, and left nothing lying about."""
    start.wait(PATIENCE_SECONDS)
    assert start.process.poll() == 0, start.told()
    found, wanted = contents(start.run), contents(plain.run)
    for name in sorted(found | wanted):
        there, expected = found.get(name), wanted.get(name)
        assert there == expected, f"{start.run / name}: found {there}, expected {expected}"
    assert not [name for name in found if "/." in f"/{name}" or name == "lock.json"], found.keys()
    status = read_status(start.run)
    assert (status["state"], status["restarts"] > 0) == ("done", was_cut), status


def run_chaos(
    folder: Path, rounds: int, seed: int, processes: int = 1, zero_stage: int | None = None
) -> str:
    """Kill a job so many times, each time but when it ends before, and let it end; tells of it.

    Raises AssertionError for all that is not as in a run that was left alone.
    """
    print(f"chaos: seed {seed}, in {folder}", flush=True)
    began, rng, mount = time.monotonic(), random.Random(seed), make_mount(folder / "mount")
    flags = [*FLAGS.split(), "--max_steps", "440" if processes == 1 else "220"]
    flags += ["--num_processes", str(processes)] if processes > 1 else []
    flags += [] if zero_stage is None else ["--zero_stage", str(zero_stage)]
    killed, in_save, went_on, finished = list[str](), 0, list[str](), 0
    kept, was_cut = list[int](), False
    kind, plain = "left alone", Start(mount, "plain", flags)
    try:
        assert_finished(plain, plain, was_cut)
        log = read_lines(plain.run / "train_log.jsonl")
        loading = log[0]["time"] - plain.began
        step = (log[-1]["time"] - log[0]["time"]) / log[-1]["step"]
        within = {"early": loading, "claiming": 0.1 * loading, "stepping": 60 * step,
                  "evaluating": 8 * step, "saving": 0.025}  # fmt: skip
        kinds = ([*within, "saving"] * rounds)[:rounds]
        rng.shuffle(kinds)
        for kind in [*kinds, "to the end"]:
            start = Start(mount, f"chaos-{finished + 1}", flags)
            if kind in within and start.kill(kind, within[kind], rng):
                killed.append(kind)
                in_save += start.is_saving()
                kept = check(start.run, kept)
                state = read_status(start.run).get("state")
                was_cut = state is not None and (was_cut or state != "done")
            else:
                assert_finished(start, plain, was_cut)
                again = Start(mount, start.run.name, flags)
                assert_finished(again, plain, was_cut)
                assert "this job is done already" in again.told(), again.told()
                kept, was_cut, finished = [], False, finished + 1
            went_on += re.findall(r"going on from (\S+),", start.told())
    except Exception as error:
        raise AssertionError(f"seed {seed}, {kind} after {len(killed)} kills: {error}") from error
    finally:
        for process in plain.processes():
            process.kill()
    return (
        f"chaos with seed {seed}: {rounds} rounds, {processes} processes, ZeRO stage {zero_stage}; "
        f"kills: {({kind: killed.count(kind) for kind in within})}, {in_save} of them in a save; "
        f"{len(went_on)} starts went on from {len(set(went_on))} checkpoints; {finished} runs came "
        f"to their end as the one left alone; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for flag, default in (("rounds", 20), ("seed", random.randrange(10**6)), ("processes", 1)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--zero_stage", type=int)
    made = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(run_chaos(made, **vars(parser.parse_args())))
    shutil.rmtree(made)  # it stays where something was wrong, to be looked at
