"""Pure scores of answers against references, with their intervals.

May import distributed, config and core.
"""
