"""torchrun on one node of a Slurm job: `node.py ADDRESS PORT`, then torchrun's options.

The batch script runs it on every node, by its path, to get this project's code in any container.
Nodes have fixed ranks and meet at the first one's address: torchrun's other rendezvous relies on
each machine's own name, which may be a loopback address, or not known to the others.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from torch.distributed import DistError
from torch.distributed.run import main as torchrun

from workflow.distributed.network import LONGEST_MEETING, why_unreachable


def main(address: str, port: str, *options: str) -> None:
    """Run torchrun; it exits like `python3 -m torch.distributed.run`."""
    rank = os.environ["SLURM_NODEID"]
    meeting = [f"--node-rank={rank}", f"--master-addr={address}", f"--master-port={port}"]
    if rank != "0":  # which waits for the others, some of which may have to pull an image
        meeting.append(f"--rdzv-conf=timeout={LONGEST_MEETING}")
    try:
        torchrun([*meeting, *options])
    except DistError as error:
        fact = str(error).partition("\n")[0] if rank == "0" else why_unreachable(address, int(port))
        sys.exit(fact)


if __name__ == "__main__":
    main(*sys.argv[1:])
