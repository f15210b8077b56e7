"""Metrics of predictions against references or targets, with confidence intervals.

May import distributed, config and core.
"""
