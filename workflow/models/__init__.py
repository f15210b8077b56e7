"""Models and tokenizers: found, checked, loaded, grown, saved.

May import distributed, config and core.
"""
