"""Tokenizers with tokens for characters that their vocabulary lacks."""
