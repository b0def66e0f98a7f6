"""Training: optimizer, loop, checkpoints, cross-fitting, inference."""
