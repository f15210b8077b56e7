"""Checks and measurements for whoever has a GPU, run by `scripts/test_gpu`."""
