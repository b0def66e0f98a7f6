"""What both sides of a comparison get: sizes, and inputs made up from one seed."""

import numpy as np

GENRES = 24
HEIGHT, WIDTH = 256, 160
CHANNELS = (3, 64, 128, 256, 512, 512)
FROZEN_BATCH = 16

# Of VGG16's forward pass: products and sums of its 3 x 3 convolutions.
DEPTHS = (2, 2, 3, 3, 3)
FLOP_OF_A_POSTER = sum(
    2 * 9 * (CHANNELS[block] + (depth - 1) * CHANNELS[block + 1]) * CHANNELS[block + 1]
    * (HEIGHT >> block) * (WIDTH >> block)
    for block, depth in enumerate(DEPTHS)
)  # fmt: skip

VOCABULARY = 20_000
WORD_DIM, HIDDEN = 300, 128
PLOTS_IN_BATCH, PLOT_BATCHES = 64, 8
EQUAL_LENGTH, LONGEST = 200, 256
# Words of a plot of the talk's data: half have at most the median; of a log-normal distribution.
MEDIAN_LENGTH, LENGTH_SPREAD = 90, 0.6


def posters(count: int) -> np.ndarray:
    """<uint8>[count, HEIGHT, WIDTH, 3]."""
    return _rng().integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def activations(first_block: int, count: int) -> np.ndarray:
    """What enters a block of VGG16, <float32>[count, height, width, channels]."""
    side = 2 ** (first_block - 1)
    shape = (count, HEIGHT // side, WIDTH // side, CHANNELS[first_block - 1])
    return np.maximum(_rng().normal(0, 50, shape), 0).astype(np.float32)


def labels(count: int) -> np.ndarray:
    """<float32>[count, GENRES]."""
    return (_rng().random((count, GENRES)) < 0.1).astype(np.float32)


def plots(lengths: str, bucket: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of plots.

    Args:
      lengths: `equal`, or `real` for lengths as those of the talk's plots, where plots of similar
        length share a batch.
      bucket: a batch's padded length is the least multiple of it that holds its longest plot.

    Returns:
      For each batch, tokens <int32>[PLOTS_IN_BATCH, padded] and lengths <int32>[PLOTS_IN_BATCH].
    """
    rng, count = _rng(), PLOTS_IN_BATCH * PLOT_BATCHES
    if lengths == "equal":
        sizes = np.full(count, EQUAL_LENGTH, np.int32)
    else:
        drawn = rng.lognormal(np.log(MEDIAN_LENGTH), LENGTH_SPREAD, count)
        sizes = np.sort(np.clip(drawn, 1, LONGEST).astype(np.int32))
    batches = []
    for of_batch in np.split(sizes, PLOT_BATCHES):
        padded = -(-int(of_batch.max()) // bucket) * bucket
        tokens = rng.integers(2, VOCABULARY, (PLOTS_IN_BATCH, padded), dtype=np.int32)
        tokens[np.arange(padded) >= of_batch[:, None]] = 0
        batches.append((tokens, of_batch))
    return [batches[number] for number in rng.permutation(PLOT_BATCHES)]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
