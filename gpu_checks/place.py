"""Where a check runs: its device, folder and time, and the commands that it starts."""

import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import ROOT, T5_TINY
from benchmarks.synthetic import FLAN_T5, add_one, even_record, random_model, write_data
from workflow.core.files import write_json

FIGURES, OUTCOME = "figures.json", "outcome.json"
"""Files of a check's folder: what it measured so far, and how it ended."""
EVERY = 0.005
"""Seconds between two looks at a run."""
DIGITS = 40
"""The most that a number of the records has."""


class Skip(Exception):
    """A check cannot run here; the reason."""


class Failed(Exception):
    """A check failed; what was found."""


@dataclass(frozen=True)
class Place:
    """What a check gets.

    Attributes:
        folder: the check's own, a mount for its runs.
        layouts: the folder of large random models, which checks share.
        processes: of each job, one for each GPU.
        end: the time at which the check is killed.
    """

    folder: Path
    layouts: Path
    processes: int
    end: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Place":
        """A place by the settings that the script passes on."""
        return cls(
            Path(settings["folder"]),
            Path(settings["layouts"]),
            settings["processes"],
            settings["end"],
        )

    @property
    def device(self) -> str:
        """The device of the jobs: cuda, or cpu where CUDA has no GPU."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def left(self) -> float:
        """The seconds left."""
        return self.end - time.time()

    def note(self, **figures: Any) -> None:
        """Add figures to the results, at once: the check may be killed later."""
        file = self.folder / FIGURES
        noted = json.loads(file.read_text()) if file.exists() else {}
        write_json(file, noted | _jsonable(figures))

    def write_records(self, train: Sequence[Any], evaluated: Sequence[Any]) -> None:
        """Write the data of this check's jobs."""
        write_data(self.folder / "data" / "data.json", train, evaluated)

    def write_sums(self, count: int = 64) -> None:
        """Records of t5-tiny's task, of very different lengths."""
        numbers = random.Random(0)
        records = [add_one(numbers.randrange(10 ** numbers.randint(1, DIGITS)))
                   for _ in range(count + 1)]  # fmt: skip
        self.write_records(records[1:], records[:1])

    def write_even(self, source: int, target: int, count: int, evaluated: int = 1) -> None:
        """Records of so many tokens each."""
        record = even_record(source, target)
        self.write_records([record] * count, [record] * evaluated)

    def flags(self, run: str, **changes: Any) -> dict[str, Any]:
        """The flags of a job that only trains: t5-tiny, every step logged."""
        usual: dict[str, Any] = {
            "model_pretrain_name": str(T5_TINY), "data_name": "data", "training_run_name": run,
            "train_batch_size": 16, "logging_steps": 1, "eval_on_start": False,
            "eval_steps": 10**6, "save_steps": 10**6, "max_new_tokens": 1,
        }  # fmt: skip
        return usual | changes

    def command(self, run: str, script: Path = ROOT / "seq2seq.py", **changes: Any) -> list[str]:
        """The command of such a job."""
        places = {"mount": self.folder, "num_processes": self.processes}
        words = [sys.executable, str(script)]
        for name, value in (places | self.flags(run, **changes)).items():
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return words

    def run(self, run: str, **changes: Any) -> Path:
        """Run such a job to its end; returns its folder."""
        self.call(self.command(run, **changes))
        return self.run_folder(run)

    def call(
        self, words: Sequence[str], status: int = 0, folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:  # fmt: skip
        """What a command prints, which has to end with this status.

        Args:
            folder, environment: those of the command, where not this process's.
        """
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            cwd=folder, env=environment,
        )  # fmt: skip
        print(f"$ {' '.join(words)}\n{done.stdout}", flush=True)
        if done.returncode != status:
            raise Failed(_last_line(done.stdout, words, done.returncode))
        return done.stdout

    def run_until(self, words: Sequence[str], seen: Callable[[], bool]) -> None:
        """Run a command until something is seen, then kill it.

        Raises:
            Failed: if it ended before.
        """
        with tempfile.TemporaryFile("w+") as file:
            running = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
            while running.poll() is None and not seen():
                time.sleep(EVERY)
            ended = running.poll()
            running.kill()
            running.wait()
            file.seek(0)
            output = file.read()
        print(f"$ {' '.join(words)}\n{output}", flush=True)
        if ended is not None and not seen():
            raise Failed(_last_line(output, words, ended))

    def run_steps(self, run: str, steps: int, **changes: Any) -> list[dict[str, Any]]:
        """Run so many steps of a job, and kill it before it saves; returns the lines of its log."""
        words = self.command(run, max_steps=100 * steps, **changes)
        self.run_until(words, lambda: len(self.log(run)) >= steps)
        return self.log(run)[:steps]

    def run_folder(self, run: str) -> Path:
        """The folder of a run."""
        return self.folder / "models" / run

    def log(self, run: str) -> list[dict[str, Any]]:
        """The complete lines of a run's log."""
        file = self.run_folder(run) / "train_log.jsonl"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def layout(self, name: str) -> str:
        """The folder of a random model in Flan-T5's layout of this name, with t5-tiny's tokenizer.

        Raises:
            Skip: if it does not fit on the disk.
        """
        folder = self.layouts / name
        if not (folder / "config.json").exists():  # written after the weights
            self.layouts.mkdir(exist_ok=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(make_layout, name, folder, self.device).result()
        return str(folder)


def _jsonable(value: Any) -> Any:
    """The value, but numbers that JSON lacks as text: nan, inf."""
    if isinstance(value, Mapping):
        return {name: _jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def make_layout(name: str, folder: Path, device: str) -> None:
    """Save a random bfloat16 model, made on a device, whose memory this process keeps."""
    import torch
    from transformers import AutoTokenizer

    from workflow.models.loading import save_model

    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = random_model(FLAN_T5[name])
    needed = model.dtype.itemsize * sum(parameter.numel() for parameter in model.parameters())
    if needed > 0.9 * shutil.disk_usage(folder.parent).free:
        raise Skip(f"{name} needs {needed / 1e9:.0f} GB of disk in {folder.parent}")
    save_model(model, AutoTokenizer.from_pretrained(T5_TINY), folder)


def _last_line(output: str, words: Sequence[str], status: int) -> str:
    """The end of a command's output, after what it was."""
    script = next((Path(word).name for word in words if word.endswith(".py")), words[0])
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return f"{script} ended with {status}: {last.strip()}"
