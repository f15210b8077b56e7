"""Which parameters of a model are trained, and which tensors a checkpoint holds.

May import models, data, metrics and all rooms below them.
"""

from workflow.tuning.base import TuningMethod as TuningMethod
from workflow.tuning.full import FullTuning

TUNING_METHODS: dict[str, TuningMethod] = {"full": FullTuning()}
