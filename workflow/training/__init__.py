"""The life of a run: prepare, plan, train step by step, evaluate, save.

May import tasks, reporting and all rooms below them.
"""
