"""Programs that measure the speed and memory figures in the documentation."""
