"""Generate completions, score labels, and share an evaluation among processes.

May import models, data, metrics and all rooms below them.
"""
