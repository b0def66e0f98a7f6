"""Downloads VGG16's ImageNet weights, or reads them from a file, and converts them to .npz.

    python -m mmgc_jax.pretrained.vgg16 --source=keras --output=vgg16.npz

Sources:

- keras: the weights of the Oxford Visual Geometry Group, published by Keras (CC BY 4.0); 59 MB, or
  553 MB with --top.
- torchvision: weights trained by torchvision's authors, published by timm as safetensors
  (BSD-3-Clause); 553 MB.
- FILE: Keras's .h5 or .keras, .safetensors with the names of torchvision or timm, or .npz.

Downloads are kept in $XDG_CACHE_HOME/mmgc_jax (~/.cache/mmgc_jax by default). If one breaks off,
run the same command again to resume it. The .npz file includes the preprocessing (mean and std)
that the weights were trained with.
"""

import logging
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from mmgc_jax.models.vgg16 import VGG16, to_grey_kernel
from mmgc_jax.pretrained import download, vgg16_files
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_atomically

logger = logging.getLogger("mmgc_jax")

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
# Hashes from keras/src/applications/vgg16.py.
KERAS_NOTOP = download.Published(
    _KERAS + "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "vgg16_keras_notop.h5",
    "md5",
    "6d6bbae143d832006294945121d1f1fc",
    58_889_256,
)
KERAS_TOP = download.Published(
    _KERAS + "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    "vgg16_keras.h5",
    "md5",
    "64373286793e3c8b2b4e3219cbf3544b",
    553_467_096,
)
# Hash from https://huggingface.co/timm/vgg16.tv_in1k/blob/main/model.safetensors.
TORCHVISION = download.Published(
    "https://huggingface.co/timm/vgg16.tv_in1k/resolve/main/model.safetensors",
    "vgg16_torchvision.safetensors",
    "sha256",
    "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
)
_IMAGENET_CLASSES = 1000
# For error messages: how to get the weights.
COMMAND = "python -m mmgc_jax.pretrained.vgg16 --source=keras --output=vgg16.npz"


def load(file, network: VGG16) -> dict:
    """Reads the parameters of a network from a file in any format that `vgg16_files` reads.

    Args:
      file: path of the weights of a colour network, with or without dense layers.
      network: a network that begins with block 1. For a grey network, the first kernel is converted
        by `to_grey_kernel`.

    Returns:
      The parameters as a nested dictionary of numpy arrays <float32>, including `preprocessing`.

    Raises:
      InputError: if the file is missing or in an unknown format, an array is missing or has the
        wrong shape, or a value is not a finite float.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        raise InputError(f"{file}: no such file. To get VGG16's weights, run: {COMMAND}")
    params = vgg16_files.read(file, network.clone(grey=False))
    if network.grey:
        first = params["block1_conv1"]
        first["kernel"] = np.asarray(to_grey_kernel(first["kernel"]))
    return params


def save(file, params: dict) -> None:
    """Writes the parameters of a colour network to an `.npz` file, atomically.

    Args:
      file: path to write. Arrays are named like `block1_conv1/kernel` and `preprocessing/mean`.
      params: parameters of `VGG16`.
    """
    arrays = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
    write_atomically(pathlib.Path(file), lambda stream: np.savez(stream, **arrays))


def convert(source: str, output: pathlib.Path, top: bool) -> str:
    """Converts weights to `.npz`; downloads them first if `source` is not a file.

    Args:
      source: `keras`, `torchvision` or the path of a file.
      output: the file to write.
      top: whether to include the dense layers.

    Returns:
      A summary for the user: the file, the number of parameters and the source.

    Raises:
      InputError: if the weights cannot be downloaded or read, or the file cannot be written.
    """
    published = {"keras": KERAS_TOP if top else KERAS_NOTOP, "torchvision": TORCHVISION}.get(source)
    if published is None and not pathlib.Path(source).exists():
        raise InputError(f"--source={source} is not keras, torchvision or an existing file.")
    file = download.fetch(published) if published else source
    params = load(file, VGG16(num_classes=_IMAGENET_CLASSES if top else None))
    try:
        save(output, params)
    except OSError as error:
        raise InputError(f"--output={output} cannot be written: {error}") from error
    layers = {name: layer for name, layer in params.items() if name != "preprocessing"}
    count = sum(array.size for array in jax.tree.leaves(layers))
    return (
        f"{output}: VGG16 {'with' if top else 'without'} top, {count:,} parameters, from {source}"
    )


def _define_flags() -> None:
    flags.DEFINE_string("source", None, "keras, torchvision or the path of a file.", required=True)
    flags.DEFINE_string("output", None, "Path of the .npz file to write.", required=True)
    flags.DEFINE_bool("top", False, "Include the dense layers that classify ImageNet.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logger.setLevel(logging.INFO)
    values = flags.FLAGS
    try:
        print(convert(values.source, pathlib.Path(values.output), values.top))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
