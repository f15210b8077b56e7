"""The job as typed settings: flags, job files, defaults. Imports no torch.

May import core.
"""
