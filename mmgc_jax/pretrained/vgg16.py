"""VGG16's ImageNet weights in our parameter tree."""

import pathlib
import zipfile
import zlib

import jax
import numpy as np

from mmgc_jax.errors import InputError
from mmgc_jax.models.poster import VGG16, to_grey_kernel


def load(file, grey: bool = False, widths=VGG16.widths, depths=VGG16.depths) -> dict:
    """Reads the convolutions from a `.npz` file.

    Args:
      file: holds `block1_conv1/kernel` <float32>[3, 3, in, out] and `block1_conv1/bias`
        <float32>[out], and so on to `block5_conv3`; nothing pickled.
      grey: whether the first kernel is summed over its channels; see `to_grey_kernel`.
      widths: the channels of each block that the network has.
      depths: the convolutions of each block.

    Returns:
      The parameters of `VGG16(grey=grey, widths=widths, depths=depths)`.

    Raises:
      InputError: if the file is missing, is no such file, or an array is missing, has another
        shape than the network's, or holds a value that is not finite.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        raise InputError(
            f"config.poster.weights is {str(file)!r}: no such file. It must be a .npz file with "
            "VGG16's convolutions, or empty to train from scratch."
        )
    expected = jax.eval_shape(
        VGG16(widths=widths, depths=depths).init,
        jax.random.key(0),
        np.zeros((1, 32, 32, 3), np.uint8),
    )["params"]
    params = {}
    try:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise InputError(f"{file} holds one array, not those of VGG16 by name.")
        with arrays:
            for layer, parts in expected.items():
                params[layer] = {}
                for part, like in parts.items():
                    name = f"{layer}/{part}"
                    if name not in arrays:
                        raise InputError(f"{file} lacks {name}; it is not a file of VGG16 weights.")
                    array = arrays[name]
                    if array.shape != like.shape:
                        raise InputError(
                            f"{file}: {name} has the shape {array.shape}, not {like.shape}."
                        )
                    if not np.issubdtype(array.dtype, np.floating):
                        raise InputError(f"{file}: {name} holds {array.dtype}, not floats.")
                    if not np.isfinite(array).all():
                        raise InputError(f"{file}: {name} holds values that are not finite.")
                    params[layer][part] = array.astype(np.float32)
    except InputError:
        raise
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read as a .npz file of arrays: {error}") from error
    if grey:
        first = params["block1_conv1"]
        first["kernel"] = np.asarray(to_grey_kernel(first["kernel"]))
    return params
