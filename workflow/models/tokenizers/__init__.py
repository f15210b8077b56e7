"""Extend tokenizers with tokens for missing characters."""
