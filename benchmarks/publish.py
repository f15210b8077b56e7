"""Measurements as text: sections of docs/operate/performance.md, medians, machine rates."""

import os
import platform
import statistics
import time
from collections.abc import Sequence

from benchmarks import ROOT

DOCUMENT = ROOT / "docs" / "operate" / "performance.md"


def publish(command: str, section: str) -> None:
    """Print what a command measured, and put it between the command's marks in the document.

    Args:
        command: as it stands after `python3 -m`.
    """
    print(section)
    begin, end = f"<!-- measured by: python3 -m {command} -->\n", "<!-- end -->\n"
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(end, 1)[1]
    DOCUMENT.write_text(f"{before}{begin}{section}{end}{after}", encoding="utf-8")


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median, and the least and the greatest in brackets."""
    least, greatest = min(values), max(values)
    middle = statistics.median(values)
    return f"{middle:.{digits}f}{unit} ({least:.{digits}f}–{greatest:.{digits}f})"


def ratios(ours: Sequence[float], peers: Sequence[float]) -> str:
    """How many times the peer's each of ours is, round by round."""
    return spread([one / peer for one, peer in zip(ours, peers, strict=True)], unit=" ×")


def matrix_rates() -> dict[str, float]:
    """GFLOP/s of a product of square matrices, the median of 20, by precision.

    They are 2048 wide on a CPU and 8192 on a GPU, which starts an operation in 0.02 ms. Where
    bf16 is emulated, which takes half a minute for one product, its rate is left out.
    """
    import torch

    from workflow.distributed.device import fast_bf16

    device, width = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    rates = {}
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if fast_bf16() else {})
    for name, dtype in dtypes.items():
        one = torch.randn(width, width, dtype=dtype, device=device)
        product = torch.empty_like(one)
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            torch.mm(one, one, out=product)
            product[0, 0].item()
            seconds.append(time.perf_counter() - began)
        rates[name] = 2 * width**3 / statistics.median(seconds) / 1e9
    return rates


def usual_rate(rates: dict[str, float]) -> float:
    """The rate of what computes as it comes: in bf16, unless that is emulated."""
    return rates.get("bf16", rates["fp32"])


def machine(rates: dict[str, float]) -> str:
    """The machine and the versions, in a sentence or two."""
    import torch
    import transformers

    bf16 = f"{rates['bf16']:.0f} in bf16" if "bf16" in rates else "bf16 emulated"
    return (
        f"Machine: {platform.machine()}, {os.cpu_count()} cores; matrix "
        f"rate {rates['fp32']:.0f} GFLOP/s in fp32, {bf16}. Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}."
    )
