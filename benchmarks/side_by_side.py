"""What benchmarks share: the model, trials in turn, matrix rates, and where tables are written."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "PERFORMANCE.md"


Trials = dict[str, list[dict[str, Any]]]
"""What each trial found, by kind."""


def add_shared_arguments(parser: argparse.ArgumentParser, kinds: Sequence[str], data: str) -> None:
    """The flags of every benchmark; `--trial` and `--folder` are for its own processes.

    Args:
        data: what the data file holds.
    """
    example = ROOT / "mount" / "data" / "data.json"
    tokenizer = ROOT / "mount" / "models" / "t5-tiny"
    parser.add_argument("--data", type=Path, default=example, help=f"JSON file of {data}")
    parser.add_argument(
        "--tokenizer", type=Path, default=tokenizer, help="folder of a T5 tokenizer"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times each is run, in turn")
    parser.add_argument("--trial", choices=list(kinds), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)


def measure(
    name: str,
    kinds: Sequence[str],
    arguments: argparse.Namespace,
    write_data: Callable[[Path], None],
    words: Sequence[str] = (),
) -> tuple[Trials, dict[str, float]]:
    """All kinds in turn, as many rounds as asked for; with the machine's matrix rates.

    Args:
        write_data: puts the data into a mount's data folder.
        words: flags for the trials.
    """
    trials: Trials = {kind: [] for kind in kinds}
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "models" / "m", SMALL, arguments.tokenizer)
        (Path(folder) / "data").mkdir()
        write_data(Path(folder) / "data")
        for _ in range(arguments.rounds):
            rates.append(matrix_rates())
            for kind, found in trials.items():
                found.append(start_trial(name, kind, Path(folder), words))
                figures = {n: v for n, v in found[-1].items() if isinstance(v, float)}
                print(kind, figures, flush=True)
    return trials, median_rates(rates)


def write_section(name: str, section: str) -> None:
    """Replace what stands between the marks of a benchmark in docs/PERFORMANCE.md."""
    begin, end = f"<!-- measured by: python3 -m benchmarks {name} -->\n", "<!-- end -->\n"
    before, rest = REPORT.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    REPORT.write_text(f"{before}{begin}{section}{end}{after}", encoding="utf-8")


def start_trial(name: str, kind: str, folder: Path, words: Sequence[str] = ()) -> dict[str, Any]:
    """One trial of a benchmark in a process of its own: the JSON of its last line."""
    command = [sys.executable, "-m", "benchmarks", name, "--trial", kind, "--folder", str(folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [*command, *words], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


SMALL = {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6,
         "num_layers": 8}  # fmt: skip
"""The sizes of flan-t5-small."""


def make_model(folder: Path, shape: dict[str, int], tokenizer: Path) -> int:
    """Save a random model in Flan-T5's layout; returns how many parameters it has."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    from workflow.models.loading import save_model

    torch.manual_seed(0)
    config = T5Config(
        **shape, feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False
    )
    model = T5ForConditionalGeneration(config)
    head = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
    model.lm_head.weight = torch.nn.Parameter(head)
    save_model(model, AutoTokenizer.from_pretrained(tokenizer), folder)
    return sum(parameter.numel() for parameter in model.parameters())


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def matrix_rates() -> dict[str, float]:
    """GFLOP/s of a product of two 2048 × 2048 matrices, the median of 20, by precision."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        one = torch.randn(2048, 2048, dtype=dtype, device=device)
        product = torch.empty_like(one)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            torch.mm(one, one, out=product)
            product[0, 0].item()
            seconds.append(time.perf_counter() - began)
        rates[name] = 2 * 2048**3 / statistics.median(seconds) / 1e9
    return rates


def median_rates(rates: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in rates) for name in rates[0]}


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, and the least and the greatest in brackets."""
    least, greatest = min(values), max(values)
    middle = statistics.median(values)
    return f"{middle:.{digits}f}{unit} ({least:.{digits}f}–{greatest:.{digits}f})"


def machine(rates: dict[str, float]) -> str:
    """The machine and the versions, in a sentence or two."""
    import torch
    import transformers

    return (
        f"Machine: {platform.machine()}, {os.cpu_count()} cores; matrix "
        f"rate {rates['fp32']:.0f} GFLOP/s in fp32, {rates['bf16']:.0f} in bf16. Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}."
    )
