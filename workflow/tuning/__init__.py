"""Which parameters of a model are trained, and which tensors a checkpoint holds.

May import models, data, metrics and all rooms below them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow.config.request import JobRequest
from workflow.tuning.base import TuningMethod as TuningMethod
from workflow.tuning.full import FullTuning as FullTuning

# It warns of kernels for CPUs that it would download, once peft imports it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def tuning_of(request: JobRequest, adapter: Path | None = None) -> TuningMethod:
    """The tuning method of a job, which may go on with an adapter of an earlier one.

    peft is imported only for adapters: it takes seconds.
    """
    if request.tuning in (None, "full"):
        return FullTuning(request.freeze)
    from workflow.tuning.adapter import read_config
    from workflow.tuning.lora import Ia3, Lora
    from workflow.tuning.prompts import PrefixTuning, PromptTuning

    methods: dict[str, Callable[[JobRequest, Any], TuningMethod]]
    methods = {"lora": Lora, "ia3": Ia3, "prefix": PrefixTuning, "prompt": PromptTuning}
    method = methods[request.tuning]
    return method(request, None if adapter is None else read_config(adapter))
