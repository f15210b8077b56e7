"""Steps as CUDA graphs: all kernels of a step are started at once."""

from collections.abc import Callable
from typing import TypeVar

import torch

from workflow.core.console import warn_once

S = TypeVar("S")


def run_each(step: Callable[[S], None], shapes: S, times: int) -> None:
    """Call a step several times."""
    for _ in range(times):
        step(shapes)


class StepGraphs:
    """CUDA graphs of a step, one for each of its shapes, in one pool of memory.

    A step must use the same tensors each time, and read no value on the host. The first steps of
    any shapes run on another stream, where libraries choose their kernels; the next are captured
    (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). This has not run on a GPU yet: if
    a capture fails, steps go on without graphs.
    """

    def __init__(self) -> None:
        self._graphs: dict[object, torch.cuda.CUDAGraph] = {}
        self._warm: set[object] = set()
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        self._failed = False

    def run(self, step: Callable[[S], None], shapes: S, times: int) -> None:
        """Call a step several times, or replay its graph."""
        if shapes in self._warm and shapes not in self._graphs and not self._failed:
            self._capture(step, shapes)
        if graph := self._graphs.get(shapes):
            for _ in range(times):
                graph.replay()
        elif self._failed:
            run_each(step, shapes, times)
        else:
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                run_each(step, shapes, times)
            current.wait_stream(self._stream)
            self._warm.add(shapes)

    def _capture(self, step: Callable[[S], None], shapes: S) -> None:
        graph = torch.cuda.CUDAGraph()
        capturing = torch.cuda.graph(
            graph, self._pool, self._stream,
            capture_error_mode="thread_local",  # NCCL's thread asks for events all the time
        )  # fmt: skip
        try:
            # A failed capture leaves torch on its stream.
            with torch.cuda.stream(self._stream), capturing:
                step(shapes)
        except RuntimeError as error:
            self._failed = True
            reason = str(error).partition("\n")[0]
            warn_once(f"generation continues without CUDA graphs, which failed: {reason}")
        else:
            self._graphs[shapes] = graph
