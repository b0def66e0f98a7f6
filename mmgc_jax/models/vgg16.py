"""VGG16, whole or some of its blocks, with the preprocessing that its weights need."""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.convolution import convolve
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.ops.map_images import map_images
from mmgc_jax.ops.max_pool import max_pool

# Preprocessing of the published Caffe and Keras weights: pixels from 0 to 255, minus ImageNet's
# means of R, G and B.
KERAS_MEAN = (123.68, 116.779, 103.939)
KERAS_STD = (1.0, 1.0, 1.0)
# ITU-R BT.601 luma of R, G and B, as Pillow's mode "L" computes it.
_LUMA = (0.299, 0.587, 0.114)

BLOCKS = (1, 2, 3, 4, 5)
# Height and width of the map that the dense layers take.
TOP_SIDE = 7


def preprocess(
    posters: jax.Array, mean: jax.Array, std: jax.Array, grey: bool = False
) -> jax.Array:
    """Normalises pixels to the network's input, (pixels - mean) / std.

    Args:
      posters: <uint8>[batch, height, width, 3], RGB.
      mean: <float32>[3], of R, G and B, from 0 to 255.
      std: <float32>[3], likewise, above 0.
      grey: whether to reduce pixels, mean and std to one channel of luma.

    Returns:
      <float32>[batch, height, width, 1 or 3], colours in the order RGB.
    """
    pixels = posters.astype(jnp.float32)
    if grey:
        pixels, mean, std = (_luma(colours) for colours in (pixels, mean, std))
    return (pixels - mean) / std


def _luma(colours: jax.Array) -> jax.Array:
    """Reduces <float32>[..., 3] to <float32>[..., 1]."""
    # Not a matmul, since matrix units round their operands.
    return jnp.sum(colours * jnp.array(_LUMA), axis=-1, keepdims=True)


def to_grey_kernel(kernel: jax.Array) -> jax.Array:
    """Returns the kernel for one channel that equals a colour kernel on three copies of it.

    Args:
      kernel: <float>[height, width, 3, out].

    Returns:
      <float>[height, width, 1, out], the sum over the input channels.
    """
    return kernel.sum(axis=2, keepdims=True)


class VGG16(nn.Module):
    """VGG16 (Simonyan and Zisserman, arXiv 1409.1556), or some of its blocks.

    Five blocks of 3 x 3 convolutions with ReLU, each followed by 2 x 2 max pooling; then, if
    `num_classes` is set, ImageNet's dense layers, without the dropout between them. Layers are
    named as in Keras, `block1_conv1` to `block5_conv3`, `fc1`, `fc2` and `predictions`. A network
    of some blocks uses the same names, so that all share one parameter tree.

    Block 1 begins with `preprocess`. Its `mean` and `std` belong to the weights and so are
    parameters, `preprocessing`, but they are not trained: their gradient is zero.

    Attributes:
      first_block: first block to run; the input of block n is the output of block n - 1.
      last_block: last block to run, inclusive.
      grey: whether block 1 takes one channel of luma.
      widths: channels of each block.
      depths: convolutions of each block.
      num_classes: outputs of `predictions`, 1000 for ImageNet; None leaves out the dense layers.
      top_widths: sizes of `fc1` and `fc2`.
      dtype: of the computation; parameters stay float32.
      kernels: implementations of convolution and max pooling.
    """

    first_block: int = 1
    last_block: int = 5
    grey: bool = False
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    depths: Sequence[int] = (2, 2, 3, 3, 3)
    num_classes: int | None = None
    top_widths: tuple[int, int] = (4096, 4096)
    dtype: str = "float32"
    kernels: Kernels = Kernels()

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """Runs the blocks.

        Args:
          images: posters <uint8>[batch, height, width, 3], RGB, if first_block is 1, otherwise the
            preceding block's activations <float>[batch, height, width, channels].

        Returns:
          `block<n>_pool` <dtype>[batch, height / 2^n, width / 2^n, widths[n - 1]] for each block;
          with dense layers also `fc<n>` <dtype>[batch, top_widths[n - 1]], after ReLU, and
          `logits` <float32>[batch, num_classes].

        Raises:
          ValueError: if there are dense layers, and last_block is not 5 or the posters are not
            224 x 224 pixels.
        """
        x = images
        if self.first_block == 1:
            preprocessing = self.param("preprocessing", _keras_preprocessing)
            x = preprocess(images, **jax.lax.stop_gradient(preprocessing), grey=self.grey)
        outputs = {}
        for block in range(self.first_block, self.last_block + 1):
            for layer in range(1, self.depths[block - 1] + 1):
                conv = self._conv3x3(self.widths[block - 1], f"block{block}_conv{layer}")
                x = nn.relu(conv(x)).astype(self.dtype)
            x = outputs[f"block{block}_pool"] = max_pool(x, self.kernels.max_pool)
        if self.num_classes is None:
            return outputs

        self._check_map(x)
        x = x.reshape(x.shape[0], -1)
        for number, width in enumerate(self.top_widths, start=1):
            dense = nn.Dense(width, dtype=self.dtype, name=f"fc{number}")
            x = outputs[f"fc{number}"] = nn.relu(dense(x))
        outputs["logits"] = nn.Dense(self.num_classes, name="predictions")(x.astype(jnp.float32))
        return outputs

    def _conv3x3(self, width: int, name: str) -> nn.Conv:
        implementation = self.kernels.convolution_for(self.dtype)
        return nn.Conv(
            width,
            (3, 3),
            dtype=self.dtype,
            # Keeps the scale through many layers of ReLU (arXiv 1502.01852).
            kernel_init=nn.initializers.he_normal(),
            conv_general_dilated=functools.partial(_conv_general_dilated, implementation),
            promote_dtype=_promote_all_but_bias,
            name=name,
        )

    def _check_map(self, activations: jax.Array) -> None:
        if self.last_block != BLOCKS[-1]:
            raise ValueError(f"the dense layers follow block 5, but last_block={self.last_block}")
        height, width = activations.shape[1:3]
        if (height, width) != (TOP_SIDE, TOP_SIDE):
            pixels = 2 ** len(BLOCKS) * TOP_SIDE
            raise ValueError(
                f"the dense layers take the {TOP_SIDE} x {TOP_SIDE} map of posters of {pixels} x "
                f"{pixels} pixels; this one is {height} x {width}"
            )


def apply_blocks(network: VGG16, params: Mapping, images: jax.Array) -> dict[str, jax.Array]:
    """Applies the network block by block, each to the groups of images that suit its kernels.

    Equals `network.apply`; on a CPU it is faster.

    Args:
      network: without dense layers.
      params: at least those of its blocks.
      images: as the network takes them.

    Returns:
      `block<n>_pool` for each block.
    """
    outputs = {}
    for block in range(network.first_block, network.last_block + 1):
        name = f"block{block}_pool"
        alone = network.clone(first_block=block, last_block=block)
        images = outputs[name] = map_images(
            lambda images, alone=alone, name=name: alone.apply({"params": params}, images)[name],
            images,
            network.kernels.pixels_per_group,
        )
    return outputs


def _conv_general_dilated(
    implementation: str, images: jax.Array, kernel: jax.Array, *_, **__
) -> jax.Array:
    """Computes `lax.conv_general_dilated` as VGG16's `nn.Conv` calls it."""
    return convolve(images, kernel, implementation)


def _promote_all_but_bias(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, *, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Promotes dtypes as Flax does, except the bias, which is added in float32.

    The bias's gradient is then a sum in float32. On a CPU XLA takes 50 times as long to sum
    bfloat16 numbers.
    """
    images, kernel = nn.dtypes.promote_dtype(images, kernel, dtype=dtype)
    return images, kernel, bias


def _keras_preprocessing(key: jax.Array) -> dict[str, jax.Array]:
    del key  # not random
    return {"mean": jnp.float32(KERAS_MEAN), "std": jnp.float32(KERAS_STD)}
