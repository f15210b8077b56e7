"""Find, check, load, extend and save models and tokenizers.

May import distributed, config and core.
"""
