"""What the README says about speed and memory, as programs that measure it."""
