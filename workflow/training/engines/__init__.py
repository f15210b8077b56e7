"""Gradients and updates: plain torch in one process, DeepSpeed ZeRO in several."""
