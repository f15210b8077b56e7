"""The memory of a job, predicted from the model's sizes, and what fits a machine.

May import models, data, metrics and all rooms below them.
"""
