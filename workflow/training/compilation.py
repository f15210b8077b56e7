"""`--torch_compile`: a model's layers compiled by torch, for training."""

import os
import shutil
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from workflow.config.job import JobSpec
from workflow.config.request import JobRequest
from workflow.core.console import log
from workflow.core.errors import Problem
from workflow.distributed.device import usable_gpus
from workflow.distributed.strategy import ShardingStrategy

MOST_COMPILED = 64
"""Times that a function may be compiled; torch's own limit is 8, for sizes that are constants."""


def compile_layers(model: PreTrainedModel, spec: JobSpec) -> None:
    """Compile each layer, at its first call, for micro-batches of all sizes.

    Sizes are symbols, so a kind of layer is compiled once, and again for a size of 1, which torch
    treats apart. Layers and not the whole model: layers of a kind share their code, and only one
    layer's gradients exist at once.
    """
    import torch._dynamo.config
    import torch._inductor.config
    import torch.fx.experimental._config

    torch._dynamo.config.recompile_limit = MOST_COMPILED
    torch._inductor.config.deterministic = spec.full_determinism  # else kernels are chosen by time
    # Sizes that are equal in the first micro-batch may differ in the next.
    torch.fx.experimental._config.use_duck_shape = False
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)
    log.info("layers are compiled in the first micro-batches, which takes minutes")


def uncompiled(spec: JobSpec) -> AbstractContextManager[Any]:
    """A context in which compiled layers run as they are: evaluations have other sizes."""
    return torch.compiler.set_stance("force_eager") if spec.torch_compile else nullcontext()


def problems_of_compiler(request: JobRequest) -> list[Problem]:
    """What compilation lacks on this machine: a compiler, or Python's header files.

    torch compiles C++ for CPUs (`torch._inductor.cpp_builder`); for GPUs Triton compiles C
    (`triton.runtime.build`).
    """
    if not request.torch_compile or request.no_train:
        return []
    variable, names = ("CC", ["gcc", "clang"]) if usable_gpus() else ("CXX", ["g++"])
    names = [os.environ[variable]] if variable in os.environ else names
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not any(map(shutil.which, names)):
        found = f"no compiler on this machine ({' or '.join(names)})"
        expected = f"a C compiler, in PATH or in {variable}" if variable == "CC" else (
            f"a C++ compiler, in PATH or in {variable}"
        )  # fmt: skip
        hint = f"install {names[0]}, or remove --torch_compile"
    elif not header.is_file():
        found, expected = f"no file {header}", "Python's header files"
        hint = "install python3-dev or python3-devel, or remove --torch_compile"
    else:
        return []
    return [Problem("--torch_compile", found, expected, hint)]


def problems_of_sharding(spec: JobSpec, strategy: ShardingStrategy | None) -> list[Problem]:
    """ZeRO-3 gathers a module's weights when it is called; a compiled layer calls none."""
    if not spec.torch_compile or spec.no_train or strategy is None or strategy.stage != 3:
        return []
    expected = "ZeRO 1, ZeRO 2 or plain torch, whose weights are whole"
    hint = "set --zero_stage 2 --offload optimizer, or remove --torch_compile"
    return [Problem("--torch_compile", "ZeRO 3, which divides the weights", expected, hint)]
