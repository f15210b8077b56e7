"""What a run shows: its report, comparisons with others, trackers. Imports no torch.

May import inference, memory, runs and all rooms below them.
"""
