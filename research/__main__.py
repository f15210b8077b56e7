"""Compare results of the pinned stack and of this project with the correct ones.

`python3 -m research` lists the proofs, `… NAME` runs one, `… all` runs all of them and also
writes their table to docs/operate/performance.md.
The exit status is 1 if this project's result is wrong.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.peer import check_packages
from benchmarks.publish import publish
from research import cut_steps, padded_predictions, saved_config, zero3_head
from research.trials import Row, make_mount

PROOFS = {
    "head": zero3_head,
    "step": cut_steps,
    "rows": padded_predictions,
    "saved": saved_config,
}


def main() -> None:
    """List the proofs, or run what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python3 -m research",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=[*PROOFS, "all"], help="the proof to run")
    name = parser.parse_args().name
    if name is None:
        for known, proof in PROOFS.items():
            print(f"{known}: {proof.__doc__}")
        return
    check_packages()
    rows = prove(list(PROOFS) if name == "all" else [name])
    if name == "all" and not any(row.ours.startswith("failed") for row in rows):
        publish("research all", table(rows))
    else:
        print(table(rows))
    if not all(row.ours_is_right for row in rows):
        raise SystemExit(1)


def prove(names: Sequence[str]) -> list[Row]:
    """Run proofs on a mount of their own."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed says which it found
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_mount(Path(folder))
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows.append(PROOFS[name].prove(Path(folder)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The section of docs/operate/performance.md."""
    lines = []
    for row in rows:
        verdict = "gone" if row.peer_is_right else "there"
        ours = row.ours if row.ours_is_right else f"**{row.ours}**"
        lines.append(f"| {row.defect} | {row.right} | {row.peer} | {ours} | {verdict} |")
    names = ("torch", "transformers", "accelerate", "deepspeed")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return "\n".join(
        [
            "| defect | right | peer | this project | peer's verdict |",
            "|---|---|---|---|---|",
            *lines,
            "",
            f"A tiny random model in Flan-T5's layout, in fp32 on a CPU. Python "
            f"{platform.python_version()}, {versions}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
