"""The experiments: each file's `get_config` gives one; imported as `mmgc_jax.configs`."""
