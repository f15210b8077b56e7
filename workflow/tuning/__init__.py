"""Which parameters of a model learn, and what of it a checkpoint holds.

May import models, data, metrics and all rooms below them.
"""

from workflow.tuning.base import TuningMethod as TuningMethod
from workflow.tuning.full import FullTuning

TUNING_METHODS: dict[str, TuningMethod] = {"full": FullTuning()}
