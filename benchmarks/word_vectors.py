"""Measures time and memory of reading the vectors of some words from a large file.

    python -m benchmarks.word_vectors

Writes a temporary file of random vectors as large as Google's (3 million words, 300 numbers each,
3.6 GB), and reads the vectors of 20,000 words in a separate process.
"""

import multiprocessing
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import memory
from mmgc_jax.pretrained import vector_file

_WORDS = flags.DEFINE_integer("words", 3_000_000, "Number of words in the file.", lower_bound=1)
_WANTED = flags.DEFINE_integer("wanted", 20_000, "Number of words to read.", lower_bound=1)
_DIM = flags.DEFINE_integer("dim", 300, "Length of a vector.", lower_bound=1)


def write_file(file: pathlib.Path, words: int, dim: int) -> None:
    """Writes vectors in word2vec's binary format: `word0`, `word1`, ..."""
    vectors = [row.tobytes() for row in np.random.default_rng(0).normal(size=(1000, dim))
               .astype(np.float32)]  # fmt: skip
    with file.open("wb") as stream:
        stream.write(f"{words} {dim}\n".encode())
        for number in range(words):
            stream.write(b"word%d " % number + vectors[number % 1000])


def measure(file: pathlib.Path, words: int, wanted: int) -> tuple[float, float, float]:
    """Reads the vectors of evenly spaced words.

    Args:
      file: a file that `write_file` wrote.
      words: number of words in the file.
      wanted: number of words to read.

    Returns:
      Seconds, and the peak memory of the process before and after reading, in 10^6 bytes.
    """
    names = [f"word{number}" for number in range(0, words, words // wanted)][:wanted]
    before = memory.peak_mb()
    start = time.perf_counter()
    vectors = vector_file.read(file, names)
    seconds = time.perf_counter() - start
    assert len(vectors) == wanted
    return seconds, before, memory.peak_mb()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    if _WANTED.value > _WORDS.value:
        raise app.UsageError(f"--wanted={_WANTED.value} is more than --words={_WORDS.value}.")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "vectors.bin")
        write_file(file, _WORDS.value, _DIM.value)
        size = file.stat().st_size / 1e9
        # A new process, so that its peak memory does not include writing.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = file, _WORDS.value, _WANTED.value
            seconds, before, peak = pool.apply(measure, arguments)
    kept = _WANTED.value * _DIM.value * 4 / 1e6
    print(f"{size:.1f} GB, {_WORDS.value:,} words, {_WANTED.value:,} of them read ({kept:.0f} MB):")
    print(f"{seconds:.1f} s; peak memory {before:.0f} MB before reading, {peak:.0f} MB after.")


if __name__ == "__main__":
    app.run(main)
