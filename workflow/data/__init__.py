"""Read data files into checked records, token ids and batches, and audit them.

May import distributed, config and core.
"""
