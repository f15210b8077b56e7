"""Proofs of the pinned stack's errors, for which this project has its own code."""
