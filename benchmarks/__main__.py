"""`python3 -m benchmarks NAME` measures and writes docs/PERFORMANCE.md."""

import argparse

from benchmarks import (
    durability,
    exactness,
    generate,
    growth,
    memory,
    peer_defects,
    report,
    score,
    startup,
    train,
    train_memory,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    named = {
        "train": train,
        "train_memory": train_memory,
        "score": score,
        "generate": generate,
        "startup": startup,
        "report": report,
        "exactness": exactness,
        "growth": growth,
        "durability": durability,
        "memory": memory,
        "peer_defects": peer_defects,
    }
    for name, benchmark in named.items():
        benchmark.add_arguments(commands.add_parser(name, help=benchmark.__doc__))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
