"""VGG16, or a range of its blocks, with the preprocessing that its weights need."""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmgc_jax.ops.convolution import convolve
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.ops.map_images import map_images
from mmgc_jax.ops.max_pool import max_pool

# Preprocessing for the published Caffe and Keras weights: pixels from 0 to 255, minus the means of
# ImageNet's R, G and B.
KERAS_MEAN = (123.68, 116.779, 103.939)
KERAS_STD = (1.0, 1.0, 1.0)
# ITU-R BT.601 luma of R, G and B, as Pillow's mode "L" computes it.
_LUMA = (0.299, 0.587, 0.114)

BLOCKS = (1, 2, 3, 4, 5)
# Height and width of block 5's output that the dense layers need.
TOP_SIDE = 7


def preprocess(
    posters: jax.Array, mean: jax.Array, std: jax.Array, grey: bool = False
) -> jax.Array:
    """Normalises pixels: (pixels - mean) / std.

    Args:
      posters: RGB <uint8>[batch, height, width, 3].
      mean: <float32>[3], means of R, G and B on the scale 0 to 255.
      std: <float32>[3], standard deviations of R, G and B on the same scale, positive.
      grey: whether to reduce pixels, mean and std to one channel, the luma.

    Returns:
      <float32>[batch, height, width, 1 or 3], colours in the order RGB.
    """
    pixels = posters.astype(jnp.float32)
    if grey:
        pixels, mean, std = (_luma(colours) for colours in (pixels, mean, std))
    return (pixels - mean) / std


def _luma(colours: jax.Array) -> jax.Array:
    """Reduces <float32>[..., 3] to <float32>[..., 1]."""
    # A sum instead of a matmul: on GPUs and TPUs, matmuls round their inputs by default.
    return jnp.sum(colours * jnp.array(_LUMA), axis=-1, keepdims=True)


def to_grey_kernel(kernel: jax.Array) -> jax.Array:
    """Sums a colour kernel over its input channels.

    On a grey image the result computes what the colour kernel computes on three copies of it.

    Args:
      kernel: <float>[height, width, 3, out].

    Returns:
      <float>[height, width, 1, out].
    """
    return kernel.sum(axis=2, keepdims=True)


class VGG16(nn.Module):
    """VGG16 (Simonyan and Zisserman, arXiv 1409.1556), or a range of its blocks.

    Five blocks of 3 x 3 convolutions with ReLU, each block followed by 2 x 2 max pooling. If
    `num_classes` is set, ImageNet's dense layers follow, without the dropout between them. Layers
    have the names that they have in Keras: `block1_conv1` to `block5_conv3`, `fc1`, `fc2` and
    `predictions`. A range of blocks uses the same names, so it can take the whole network's
    parameter tree.

    Block 1 begins with `preprocess`. Its `mean` and `std` depend on how the weights were trained,
    so they are parameters, named `preprocessing`. Their gradient is zero, so training does not
    change them.

    Attributes:
      first_block: first block to run, 1 to 5; block n takes the output of block n - 1.
      last_block: last block to run, inclusive.
      grey: whether block 1 converts posters to one channel, the luma.
      widths: number of channels in each block.
      depths: number of convolutions in each block.
      num_classes: number of outputs of `predictions`, 1000 for ImageNet. None: no dense layers.
      top_widths: sizes of `fc1` and `fc2`.
      dtype: `float32` or `bfloat16`, the dtype of activations; parameters are float32.
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
          images: RGB posters <uint8>[batch, height, width, 3] if first_block is 1, otherwise the
            preceding block's activations <float>[batch, height, width, channels].

        Returns:
          `block<n>_pool` <dtype>[batch, height / 2^n, width / 2^n, widths[n - 1]] for each block,
          where height and width are the poster's. With dense layers also `fc<n>`
          <dtype>[batch, top_widths[n - 1]], after ReLU, and `logits` <float32>[batch, num_classes].

        Raises:
          ValueError: if the network has dense layers, and last_block is not 5 or the posters are
            not 224 x 224 pixels.
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
            # Keeps the scale of activations through many ReLU layers (arXiv 1502.01852).
            kernel_init=nn.initializers.he_normal(),
            conv_general_dilated=functools.partial(_conv_general_dilated, implementation),
            promote_dtype=_promote_all_but_bias,
            name=name,
        )

    def _check_map(self, activations: jax.Array) -> None:
        if self.last_block != BLOCKS[-1]:
            raise ValueError(f"the dense layers need block 5, but last_block={self.last_block}")
        height, width = activations.shape[1:3]
        if (height, width) != (TOP_SIDE, TOP_SIDE):
            pixels = 2 ** len(BLOCKS) * TOP_SIDE
            raise ValueError(
                f"the dense layers need posters of {pixels} x {pixels} pixels, for which block 5's "
                f"output is {TOP_SIDE} x {TOP_SIDE}; here it is {height} x {width}"
            )


def apply_blocks(network: VGG16, params: Mapping, images: jax.Array) -> dict[str, jax.Array]:
    """Applies the network block by block, each to groups of images that fit a CPU's cache.

    The results equal those of `network.apply`; on a CPU it is faster.

    Args:
      network: a network without dense layers; its kernels limit the size of the groups.
      params: parameters of at least the network's blocks.
      images: the network's input; see `VGG16`.

    Returns:
      `block<n>_pool` for each block; see `VGG16`.
    """
    outputs = {}
    for block in range(network.first_block, network.last_block + 1):
        name = f"block{block}_pool"
        alone = network.clone(first_block=block, last_block=block)
        images = outputs[name] = map_images(
            lambda images, alone=alone, name=name: alone.apply({"params": params}, images)[name],
            images,
            network.kernels.pixels_per_group_for(network.dtype),
        )
    return outputs


def _conv_general_dilated(
    implementation: str, images: jax.Array, kernel: jax.Array, *_, **__
) -> jax.Array:
    """Replaces `lax.conv_general_dilated` in VGG16's `nn.Conv`."""
    return convolve(images, kernel, implementation)


def _promote_all_but_bias(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, *, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Promotes dtypes as Flax does, but leaves the bias in float32.

    Its gradient is then a float32 sum; on a CPU, XLA takes 50 times as long to sum bfloat16.
    """
    images, kernel = nn.dtypes.promote_dtype(images, kernel, dtype=dtype)
    return images, kernel, bias


def _keras_preprocessing(key: jax.Array) -> dict[str, jax.Array]:
    del key  # not random
    return {"mean": jnp.float32(KERAS_MEAN), "std": jnp.float32(KERAS_STD)}
