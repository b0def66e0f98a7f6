"""Small poster networks with random parameters."""

import functools

import jax
import numpy as np

WIDTHS = (3, 4, 5, 6, 7)
POSTERS = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), np.uint8)


def build(model, inputs=POSTERS):
    """Returns random parameters that keep activations' scale, with nonzero biases."""
    rng = np.random.default_rng(1)

    def random(path, like):
        if path[-1].key in ("mean", "std"):
            return rng.uniform(40, 130, like.shape).astype(np.float32)
        fan_in = np.prod(like.shape[:-1]) if len(like.shape) > 1 else 2
        return rng.normal(0, np.sqrt(2 / fan_in), like.shape).astype(np.float32)

    params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    return jax.tree_util.tree_map_with_path(random, params)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, inputs):
    with jax.default_matmul_precision("highest"):
        return model.apply({"params": params}, inputs)


def relative_error(x, expected):
    return np.linalg.norm(np.float64(x) - expected) / np.linalg.norm(np.float64(expected))
