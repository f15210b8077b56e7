"""The job as typed settings: flags, job files, defaults. Does not import torch.

May import core.
"""
