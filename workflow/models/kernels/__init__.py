"""Modules that compute the same as transformers' own, faster on a CPU or for few queries."""
