"""Measurements against public peers, side by side in one run; they write docs/PERFORMANCE.md."""
