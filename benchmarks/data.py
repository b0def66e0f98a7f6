"""Measures time and peak memory of converting MM-IMDb's archive to shards and batches.

    python -m benchmarks.data --movies=26000 --workdir=runs/benchmark

The archive is a synthetic one in MM-IMDb's format, with plots from the demo's corpus and posters of
300 x 450 pixels (width x height) and about 40 KB; there are 256 different posters, which repeat.
Each step runs in a separate process to measure its peak memory. Prints a table and writes
<workdir>/data.json.
"""

import concurrent.futures
import datetime
import io
import json
import multiprocessing
import pathlib
import shutil
import tarfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from PIL import Image

from benchmarks import machine, memory
from mmgc_jax.configs import mmimdb as mmimdb_config
from mmgc_jax.data import builder, mmimdb, pipeline, synthetic

_HEIGHT, _WIDTH = 450, 300
_DIFFERENT_POSTERS, _DIFFERENT_PLOTS = 256, 1000
_BATCH_SIZE = 64
_STEPS = {
    "archive": "generate the archive",
    "build": "archive to shards",
    "load": "shards to texts and labels",
    "epoch": "an epoch of batches",
}


def write_archive(file: pathlib.Path, movies: int) -> int:
    """Writes an archive with files in random order; returns the number of movies."""
    rng = np.random.default_rng(0)
    posters = [_draw_poster(rng) for _ in range(_DIFFERENT_POSTERS)]
    corpus = synthetic.generate(train=_DIFFERENT_PLOTS)["train"]
    texts = [
        {"title": movie.title, "year": movie.year, "plot": [movie.plot or "A plot ."],
         "genres": [genre for genre in movie.genres if genre in mmimdb.GENRES] or ["Drama"]}
        for movie, _ in corpus
    ]  # fmt: skip
    ids = [f"{number:07}" for number in rng.permutation(movies)]
    ends = np.cumsum(list(mmimdb.OFFICIAL_SIZES.values()))
    train, dev = (ends[:2] * movies / ends[2]).astype(int)
    split = {"train": ids[:train], "dev": ids[train:dev], "test": ids[dev:]}

    with tarfile.open(file, "w:gz", compresslevel=1) as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"mmimdb/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for number in rng.permutation(2 * movies):
            movie, is_text = divmod(int(number), 2)
            if is_text:
                text = json.dumps(texts[movie % len(texts)], indent=4)
                add(f"dataset/{ids[movie]}.json", text.encode())
            else:
                add(f"dataset/{ids[movie]}.jpeg", posters[movie % len(posters)])
        add("split.json", json.dumps(split).encode())
    return movies


def _draw_poster(rng: np.random.Generator) -> bytes:
    """Draws colour patches with noise; returns the bytes of a JPEG."""
    patches = Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8))
    pixels = np.asarray(patches.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))
    noisy = pixels + rng.normal(0, 17, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _data_config(archive: pathlib.Path):
    data = mmimdb_config.get_config().data
    data.path = str(archive)
    return data


def build_shards(archive: pathlib.Path, shards: pathlib.Path) -> int:
    """Builds the shards; returns the number of movies."""
    dataset = builder.build(_data_config(archive), shards)
    return sum(split.num_examples for split in dataset.info.splits.values())


def load_corpus(archive: pathlib.Path, shards: pathlib.Path) -> int:
    """Reads texts and labels; returns the number of movies."""
    data = _data_config(archive)
    return len(pipeline.load_corpus(builder.build(data, shards), data).ids)


def read_epoch(archive: pathlib.Path, shards: pathlib.Path, workers: int) -> tuple[int, float]:
    """Reads an epoch of training batches; returns the number of posters and the seconds it took."""
    data = _data_config(archive)
    corpus = pipeline.load_corpus(builder.build(data, shards), data)
    examples = pipeline.PosterExamples(corpus.records, data.poster_height, data.poster_width)
    batches = pipeline.Batches(
        examples, corpus.labels, corpus.split["train"], _BATCH_SIZE, shuffle_seed=0
    )
    start = time.perf_counter()
    posters = sum(int(batch["mask"].sum()) for batch in pipeline.iterate(batches, workers=workers))
    return posters, time.perf_counter() - start


def measure(function: Callable, *arguments) -> dict[str, float]:
    """Runs a step in a separate process and measures it.

    Args:
      function: the step. It returns the number of movies, or a pair of this number and the seconds
        to report, if these are only a part of the step's time.
      *arguments: arguments of the function.

    Returns:
      `movies`; `seconds`, the reported time; `movies_per_second`; `cpu_seconds`, the CPU time of
      all threads in the whole step; and `peak_mb`, the peak resident memory of the process in 10^6
      bytes.
    """
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_run, function, arguments).result()


def _run(function: Callable, arguments: tuple) -> dict[str, float]:
    absl_logging.set_verbosity(absl_logging.ERROR)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = function(*arguments)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    movies, seconds = result if isinstance(result, tuple) else (result, seconds)
    return {
        "movies": movies,
        "seconds": round(seconds, 2),
        "movies_per_second": round(movies / seconds, 1),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_mb": round(memory.peak_mb()),
    }


def table(results: dict) -> str:
    """Formats the figures of the steps as a table."""
    lines = [
        f"{results['movies']} movies, {results['archive_mb']} MB; {results['machine']}; "
        f"{results['date']}",
        f"{'':<30}{'movies':>9}{'seconds':>10}{'movies/s':>10}{'CPU s':>8}{'peak MB':>9}",
    ]
    for step, title in _STEPS.items():
        figures = results["steps"][step]
        lines.append(
            f"{title:<30}{figures['movies']:>9}{figures['seconds']:>10.1f}"
            f"{figures['movies_per_second']:>10.0f}{figures['cpu_seconds']:>8.1f}"
            f"{figures['peak_mb']:>9}"
        )
    return "\n".join(lines)


def run(workdir: pathlib.Path, movies: int, workers: int) -> dict:
    """Measures all steps; replaces the files of an earlier run in the working directory."""
    workdir.mkdir(parents=True, exist_ok=True)
    archive, shards = workdir / "mmimdb.tar.gz", workdir / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    steps = {
        "archive": measure(write_archive, archive, movies),
        "build": measure(build_shards, archive, shards),
        "load": measure(load_corpus, archive, shards),
        "epoch": measure(read_epoch, archive, shards, workers),
    }
    results = {
        "movies": movies,
        "archive_mb": round(archive.stat().st_size / 1e6),
        "workers": workers,
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "steps": steps,
    }
    (workdir / "data.json").write_text(json.dumps(results, indent=2))
    return results


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    values = flags.FLAGS
    print(table(run(pathlib.Path(values.workdir), values.movies, values.workers)))


if __name__ == "__main__":
    flags.DEFINE_integer("movies", 26_000, "Number of movies.", lower_bound=100)
    flags.DEFINE_integer("workers", 2, "Number of processes that prepare batches.", lower_bound=0)
    flags.DEFINE_string("workdir", "runs/benchmark", "Folder for the archive and the shards.")
    app.run(main)
