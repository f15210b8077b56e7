"""A run's folder: its place in the mount, its state, lock and checkpoints.

May import models, data, metrics and all rooms below them.
"""
