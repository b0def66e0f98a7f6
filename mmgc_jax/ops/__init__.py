"""Fast kernels behind the models.

Each operation is an ordinary function. Its implementation is an argument, and its docstring names
the reference function whose results it must match. `mmgc_jax.ops.kernels` chooses the
implementations for a device.
"""
