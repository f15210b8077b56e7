"""Gradients and updates: plain torch, or DeepSpeed ZeRO in several processes or with offload."""
