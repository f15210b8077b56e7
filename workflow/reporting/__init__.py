"""Reports of runs, comparisons of runs, trackers. Imports no torch.

May import inference, memory, runs and all rooms below them.
"""
