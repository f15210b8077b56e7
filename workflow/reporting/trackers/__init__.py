"""Who else hears a run's numbers: TensorBoard and Weights & Biases."""
