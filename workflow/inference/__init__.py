"""Prompts to completions, and an evaluation shared among processes.

May import models, data, metrics and all rooms below them.
"""
