"""A run's folder: where it lies, its state, its lock, its checkpoints.

May import models, data, metrics and all rooms below them.
"""
