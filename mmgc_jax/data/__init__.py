"""From movies on disk to batches of arrays."""
