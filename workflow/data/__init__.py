"""Data files to checked records, token ids and batches, and what an audit finds in them.

May import distributed, config and core.
"""
