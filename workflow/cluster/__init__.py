"""Submit jobs to Slurm, Kubernetes or this machine's background, and monitor them.

May import training and all rooms below it.
"""
