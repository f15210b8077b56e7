"""Faster equivalents of transformers' modules, for CPUs or for few queries."""
