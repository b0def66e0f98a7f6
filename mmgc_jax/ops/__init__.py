"""Fast kernels behind the models.

Each operation is an ordinary function that takes its implementation as an argument, and whose
docstring names the reference that it equals. `mmgc_jax.ops.kernels` chooses implementations.
"""
