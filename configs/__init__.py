"""Configs of experiments, importable as `mmgc_jax.configs`; each has a function `get_config`."""
