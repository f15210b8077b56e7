"""Processes: started, joined, what they tell each other, asked to stop.

May import config and core.
"""
