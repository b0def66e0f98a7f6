"""Converts the graphs of an exported folder to ONNX, with jax2onnx, and checks them.

Unlike StableHLO from `jax.export`, ONNX does not expire, and needs no JAX to run. Each file has its
parameters in it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmgc_jax.deployment.graphs import Graph
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.runtime.errors import InputError

# jax2onnx 0.17 converts neither max pooling as it is called here, nor scans from the last step.
KERNELS = Kernels(max_pool="reshape", reverse_scan=False)

OUTPUT = "genre_probabilities"
# Largest difference of a probability between JAX and onnxruntime.
_TOLERANCE = 1e-4
_ROWS, _OTHER_SIZE = 3, 5  # of the batch that is compared


def require_packages() -> None:
    """Raises `InputError` if jax2onnx or onnxruntime is not installed."""
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format=onnx: {error.name} is not installed. Run: pip install 'mmgc_jax[onnx]'"
        ) from error


def convert(name: str, graph: Graph) -> bytes:
    """Converts a graph; returns the content of an ONNX file.

    Args:
      name: of the model.
      graph: the model. Sizes of its batch that are no numbers stay symbolic. An array in a
        dictionary of the batch has the name `<dictionary>.<array>` in ONNX.

    Raises:
      InputError: if jax2onnx cannot convert an operation, or the result differs from JAX's.
    """
    import jax2onnx

    leaves, structure = jax.tree_util.tree_flatten_with_path(graph.batch)
    names = [".".join(key.key for key in path) for path, _ in leaves]

    params = jax.tree.map(jnp.asarray, graph.params)  # NumPy's cannot be indexed by traced arrays

    def of_arrays(*arrays):
        return graph.function(params, jax.tree.unflatten(structure, arrays))

    inputs = [
        jax.ShapeDtypeStruct(tuple(d if isinstance(d, int) else str(d) for d in s.shape), s.dtype)
        for _, s in leaves
    ]
    try:
        converted = jax2onnx.to_onnx(
            of_arrays, inputs, model_name=name, input_names=names, output_names=[OUTPUT]
        )
    except Exception as error:  # its plugins raise many kinds
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: jax2onnx cannot convert it: {reason}") from error
    content = converted.SerializeToString()
    _check(name, content, names, [_example(s, n) for n, (_, s) in enumerate(leaves)], of_arrays)
    return content


def _example(spec: jax.ShapeDtypeStruct, seed: int) -> np.ndarray:
    """Makes an array for a check: ids and lengths of 0 to 2, pixels of 0 to 255, shares."""
    sizes = [
        d if isinstance(d, int) else _ROWS if str(d) == "batch" else _OTHER_SIZE for d in spec.shape
    ]
    rng = np.random.default_rng(seed)
    if np.issubdtype(spec.dtype, np.integer):
        return rng.integers(0, 256 if spec.dtype == np.uint8 else 3, sizes).astype(spec.dtype)
    return rng.random(sizes).astype(spec.dtype)


def _check(name: str, content: bytes, names, arrays, of_arrays) -> None:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (found,) = session.run([OUTPUT], dict(zip(names, arrays)))
    except Exception as error:  # its exceptions have no common class of their own
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{name}: onnxruntime cannot run it: {reason} On CPUs it lacks operations of bfloat16, "
            "which an encoder with dtype=bfloat16 needs."
        ) from error
    difference = float(np.abs(found - np.asarray(jax.jit(of_arrays)(*arrays))).max())
    if not difference < _TOLERANCE:
        raise InputError(
            f"{name}: its probabilities by onnxruntime differ from JAX's by {difference:.1e}, more "
            f"than {_TOLERANCE:.0e}."
        )
