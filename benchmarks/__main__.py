"""Measure what users run, and update docs/operate/performance.md; durations are for two cores."""

import argparse

from benchmarks.cli import startup
from benchmarks.data import prepare
from benchmarks.inference import generate, judge, score
from benchmarks.memory import memory, paper
from benchmarks.models import decoder_only, encoder
from benchmarks.reporting import report
from benchmarks.runs import durability
from benchmarks.serving import serve
from benchmarks.training import adapters, exactness, growth, train, train_memory

BENCHMARKS = {
    "prepare": prepare,
    "train": train,
    "train_memory": train_memory,
    "adapters": adapters,
    "exactness": exactness,
    "growth": growth,
    "generate": generate,
    "score": score,
    "judge": judge,
    "serve": serve,
    "decoder_only": decoder_only,
    "encoder": encoder,
    "memory": memory,
    "paper": paper,
    "durability": durability,
    "startup": startup,
    "report": report,
}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        told = benchmark.__doc__
        benchmark.add_arguments(commands.add_parser(name, help=told, description=told))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
