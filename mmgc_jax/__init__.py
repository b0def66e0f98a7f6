"""Movie genres from plots and posters, in JAX and Flax."""
