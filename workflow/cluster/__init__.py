"""Jobs submitted to Slurm, Kubernetes or the background, and followed there.

May import training and all rooms below it.
"""
