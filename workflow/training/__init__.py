"""A run from beginning to end: prepared, planned, trained step by step, evaluated, saved.

May import tasks, reporting and all rooms below them.
"""
