"""Proofs about the pinned stack: what it gives where this project goes its own way."""
