"""Sizes and random inputs that both sides of a comparison share."""

import numpy as np

GENRES = 24
HEIGHT, WIDTH = 256, 160
CHANNELS = (3, 64, 128, 256, 512, 512)
FROZEN_BATCH = 16
VIT_SIDE = 224

# Convolutions in each block of VGG16; multiplications and additions of a forward pass.
DEPTHS = (2, 2, 3, 3, 3)
FLOP_PER_POSTER = sum(
    2 * 9 * (CHANNELS[block] + (depth - 1) * CHANNELS[block + 1]) * CHANNELS[block + 1]
    * (HEIGHT >> block) * (WIDTH >> block)
    for block, depth in enumerate(DEPTHS)
)  # fmt: skip

VOCABULARY = 20_000
WORD_DIM, HIDDEN = 300, 128
PLOTS_IN_BATCH, PLOT_BATCHES = 64, 8
EQUAL_LENGTH, LONGEST = 200, 256
# Lengths in words; log-normal, like those of the talk's plots, approximately.
MEDIAN_LENGTH, LENGTH_SPREAD = 90, 0.6


def posters(count: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """Makes random posters, <uint8>[count, *size, 3]; the default size is (HEIGHT, WIDTH)."""
    size = size or (HEIGHT, WIDTH)
    return _rng().integers(0, 256, (count, *size, 3), dtype=np.uint8)


def activations(first_block: int, count: int) -> np.ndarray:
    """Makes random inputs for a block of VGG16, <float32>[count, height, width, channels]."""
    side = 2 ** (first_block - 1)
    shape = (count, HEIGHT // side, WIDTH // side, CHANNELS[first_block - 1])
    return np.maximum(_rng().normal(0, 50, shape), 0).astype(np.float32)


def labels(count: int) -> np.ndarray:
    """Makes random labels <float32>[count, GENRES], each 1 with probability 0.1."""
    return (_rng().random((count, GENRES)) < 0.1).astype(np.float32)


def plots(lengths: str, pad_to_multiple_of: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Makes an epoch of batches of random plots.

    Args:
      lengths: `equal`: all plots have the same length; `real`: lengths are distributed as in the
        talk's data, and plots of similar length share a batch, as in training.
      pad_to_multiple_of: the plots of a batch are padded to the smallest multiple of this many
        words that fits the longest plot.

    Returns:
      For each batch, tokens <int32>[PLOTS_IN_BATCH, length] and lengths without padding
      <int32>[PLOTS_IN_BATCH].
    """
    rng, count = _rng(), PLOTS_IN_BATCH * PLOT_BATCHES
    if lengths == "equal":
        sizes = np.full(count, EQUAL_LENGTH, np.int32)
    else:
        drawn = rng.lognormal(np.log(MEDIAN_LENGTH), LENGTH_SPREAD, count)
        sizes = np.sort(np.clip(drawn, 1, LONGEST).astype(np.int32))
    batches = []
    for of_batch in np.split(sizes, PLOT_BATCHES):
        padded = -(-int(of_batch.max()) // pad_to_multiple_of) * pad_to_multiple_of
        tokens = rng.integers(2, VOCABULARY, (PLOTS_IN_BATCH, padded), dtype=np.int32)
        tokens[np.arange(padded) >= of_batch[:, None]] = 0
        batches.append((tokens, of_batch))
    return [batches[number] for number in rng.permutation(PLOT_BATCHES)]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
