"""Programs that measure the speed and memory figures of the documentation."""
