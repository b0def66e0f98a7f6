"""Training and inference of models: optimizer, training loop, checkpoints, cross-fitting."""
