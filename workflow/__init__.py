"""Fine-tune language models from one JSON file.

from workflow import make_job, run_job, find_mount
run_job(make_job("seq2seq", model_init_name="t5-tiny", data_name="data"), find_mount(None))
"""

import importlib

_EXPORTS = {
    "BadInput": "workflow.core.errors",
    "JobRequest": "workflow.config.request",
    "JobSpec": "workflow.config.job",
    "RunFailed": "workflow.core.errors",
    "Stopped": "workflow.core.errors",
    "find_mount": "workflow.runs.mount",
    "load_model": "workflow.models.loading",
    "make_job": "workflow.config.parse",
    "run_job": "workflow.training.loop",
}
__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name):  # imported when asked for: torch takes seconds
    if name not in _EXPORTS:
        raise AttributeError("module 'workflow' has no attribute %r" % name)
    return getattr(importlib.import_module(_EXPORTS[name]), name)
