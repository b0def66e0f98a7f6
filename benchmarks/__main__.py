"""Compares the speed of this project with the same workloads in PyTorch on this machine.

    pip install -e ".[bench]"
    python -m benchmarks --output=benchmarks.json

Each workload runs in a separate process. Ours and those in PyTorch take turns, so that each ratio
compares two consecutive timings. Prints a table and writes the figures as JSON. With --talk and
--weights, whole commands are timed, too: with --run, predicting a table, in turn; with --vectors,
an experiment, once on each side. Fine-tuning all of VGG16 uses batches of 128 on an NVIDIA GPU and
of 8 on a CPU.
"""

import csv
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import machine, pairs, work
from mmgc_jax import configs
from mmgc_jax.encoders import plot_lstm
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_text

_DTYPES = ("float32", "bfloat16")

_OUTPUT = flags.DEFINE_string("output", "benchmarks.json", "JSON file for the figures.")
_PAIRS = flags.DEFINE_integer("pairs", 5, "Number of timings of each workload.", lower_bound=1)
_ROWS = flags.DEFINE_string(
    "rows", "", "Measure only rows whose names match this regular expression."
)
# The settings of configs/talk.py that `torch_talk` does not have.
_SAME_AS_PEER = (
    "--config.plot.model.hidden=64",
    "--config.plot.model.attention_heads=0",
    "--config.poster.head_training.epochs=15",
    "--config.poster.training.epochs=1",
    "--config.poster_grey.finetune_from=block5",
)
_TALK = flags.DEFINE_string("talk", "", "Folder with the talk's movies.csv and posters/.")
_MOVIES = flags.DEFINE_integer(
    "movies", 600, "Number of the talk's movies to use.", lower_bound=100
)
_WEIGHTS = flags.DEFINE_string("weights", "", "VGG16's weights, an .npz file.")
_VECTORS = flags.DEFINE_string("vectors", "", "Word vectors, a binary file of word2vec.")
_RUN = flags.DEFINE_string("run", "", "Finished experiment of configs/talk.py, to predict with.")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the comparison: a workload of ours and its peers.

    Attributes:
      name: name of the row.
      unit: unit of the rates.
      ours: our workload; see `pairs.measure`.
      peers: the workloads to compare it with; see `pairs.measure`.
      targets: for each peer, the target for the ratio of our rate to the peer's rate, or None.
    """

    name: str
    unit: str
    ours: tuple[str, dict]
    peers: dict[str, tuple[str, dict]]
    targets: dict[str, float | None]


def rows(on_gpu: bool) -> list[Row]:
    """Returns all rows of the comparison."""
    # When everything is fine-tuned, the target is relative to PyTorch's bfloat16 on a GPU, but
    # relative to its float32 on a CPU.
    batch_size, targets = (128, (None, 1.0)) if on_gpu else (8, (1.0, None))
    return [
        *_in_both("VGG16 features", "posters/s", "vgg16_features", {}, (1.2, 0.8)),
        *_vit_features(),
        *_in_both("Fine-tuning from block5", "posters/s", "finetune",
                  {"first_block": 5, "batch_size": 32}, (1.0, 1.0)),
        *_in_both("Fine-tuning everything", "posters/s", "finetune",
                  {"first_block": 1, "batch_size": batch_size}, targets),
        *_in_both("LSTM, length 200", "plots/s", "plot_lstm",
                  {"lengths": "equal", "pad_to_multiple_of": 8},
                  (1.0, 1.0) if on_gpu else (5.0, 5.0), "float32" if on_gpu else "bfloat16"),
        _real_lengths(),
    ]  # fmt: skip


def _in_both(name, unit, function, sizes, targets, fastest="bfloat16") -> list[Row]:
    """Makes two rows, ours in float32 and in bfloat16, each compared with PyTorch in both dtypes.

    Args:
      name: name of the rows, without the dtype.
      unit: unit of the rates.
      function: name of the workload's function in `ours` and in `torch_peer`.
      sizes: arguments of the function except `dtype`.
      targets: target ratios relative to PyTorch in float32 and in bfloat16.
      fastest: dtype of the row to which the targets apply.
    """
    peers = _peers(function, sizes)
    return [
        Row(
            f"{name}, {dtype}",
            unit,
            (f"benchmarks.ours:{function}", sizes | {"dtype": dtype}),
            peers,
            dict(zip(peers, targets)) if dtype == fastest else dict.fromkeys(peers),
        )
        for dtype in _DTYPES
    ]


def _peers(function: str, sizes: dict) -> dict[str, tuple[str, dict]]:
    """Returns the PyTorch workloads, one for each dtype."""
    return {
        f"PyTorch {dtype}": (f"benchmarks.torch_peer:{function}", sizes | {"dtype": dtype})
        for dtype in _DTYPES
    }


def _vit_features() -> list[Row]:
    """Compares a frozen ViT-B/16 with frozen VGG16, both in the same dtype."""
    return [
        Row(
            f"ViT-B/16 features, {dtype}",
            "posters/s",
            ("benchmarks.ours:vit_features", {"dtype": dtype}),
            {"ours, VGG16": ("benchmarks.ours:vgg16_features", {"dtype": dtype})},
            {"ours, VGG16": None},
        )
        for dtype in _DTYPES
    ]


def _real_lengths() -> Row:
    """Compares the default `pad_to_multiple_of` with padding all plots to 256 words."""

    def ours(multiple):
        settings = {"lengths": "real", "pad_to_multiple_of": multiple}
        return "benchmarks.ours:plot_lstm", settings

    multiple, name = plot_lstm.default_settings().pad_to_multiple_of, "ours, all padded to 256"
    return Row("LSTM, real lengths", "plots/s", ours(multiple), {name: ours(256)}, {name: 2.0})


def talk(folder: str, movies: int, weights: str, vectors: str) -> dict:
    """Times one run of the talk's experiment in this project and one in `torch_talk`.

    Args:
      folder: folder with the talk's `movies.csv` and `posters/`.
      movies: number of movies to use, from the beginning of `movies.csv`.
      weights: file with VGG16's weights.
      vectors: file with word vectors.

    Returns:
      The result of `pairs.measure`, plus `unit` and each peer's `target`.
    """
    config = pathlib.Path(configs.__path__[0]) / "talk.py"
    with tempfile.TemporaryDirectory() as name:
        part, workdir = _first_movies(folder, movies, name), pathlib.Path(name, "run")
        ours = _seconds("mmgc_jax.main", f"--config={config}", f"--workdir={workdir}",
                        f"--config.data.path={part}", f"--config.poster.weights={weights}",
                        f"--config.plot.vectors.file={vectors}",
                        "--config.poster.dtype=bfloat16", *_SAME_AS_PEER)  # fmt: skip
        theirs = _seconds("benchmarks.torch_talk", str(part), weights, vectors)
    figures = {"rate": 60 * movies / theirs, "target": 2.0}
    figures |= dict.fromkeys(("ratio", "least", "most"), theirs / ours)
    return {"unit": "movies/min", "ours": 60 * movies / ours, "peers": {"PyTorch": figures}}


def predicting(folder: str, movies: int, weights: str, run: str, times: int) -> dict:
    """Times `mmgc predict` for a table beside `torch_predict`, from start to end of the program.

    Args:
      folder: see `talk`.
      movies: see `talk`.
      weights: see `talk`.
      run: working directory of a finished experiment of configs/talk.py.
      times: number of timings of each program.

    Returns:
      As `talk`.
    """
    with tempfile.TemporaryDirectory() as name:
        part = str(_first_movies(folder, movies, name))
        ours = ("mmgc_jax.predict", f"--workdir={run}", f"--movies={part}/movies.csv",
                f"--posters={part}/posters", f"--output={name}/probabilities.csv")  # fmt: skip
        peers = {
            f"PyTorch {dtype}": ("benchmarks.torch_predict", part, weights, dtype)
            for dtype in _DTYPES
        }
        rates = {"ours": [], **{peer: [] for peer in peers}}
        for _ in range(times):
            for program, command in {"ours": ours, **peers}.items():
                rates[program].append(movies / _seconds(*command))
    measured = pairs.compare(rates)
    for figures in measured["peers"].values():
        figures["target"] = None
    return {"unit": "movies/s"} | measured


def _first_movies(folder: str, movies: int, to: str) -> pathlib.Path:
    """Makes a folder with the first movies of the talk's; returns its path."""
    part = pathlib.Path(to, "talk")
    part.mkdir()
    (part / "posters").symlink_to(pathlib.Path(folder, "posters").resolve())
    with open(f"{folder}/movies.csv", newline="", encoding="utf-8") as source:
        lines = list(itertools.islice(csv.reader(source), movies + 1))
    with open(part / "movies.csv", "w", newline="", encoding="utf-8") as target:
        csv.writer(target).writerows(lines)
    return part


def _seconds(module: str, *arguments: str) -> float:
    """Runs a module as a program; returns the time in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
    return time.perf_counter() - start


def run(pattern: str, times: int) -> dict:
    """Measures the rows whose names match a pattern.

    Args:
      pattern: regular expression to search for in the names.
      times: number of timings of each workload.

    Returns:
      The content of the JSON file.

    Raises:
      InputError: if no name matches, or a package is not installed.
    """
    gpu = machine.gpu()
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "versions": {name: _version(name) for name in ("jax", "jaxlib", "flax", "torch")},
        "gpu": gpu,
        "pairs": times,
        "rows": {},
    }
    all_rows = rows(on_gpu=gpu is not None)
    for row in all_rows:
        if re.search(pattern, row.name):
            measured = pairs.measure(row.ours, row.peers, times)
            for peer, figures in measured["peers"].items():
                figures["target"] = row.targets[peer]
            results["rows"][row.name] = {"unit": row.unit} | measured
            print(*_lines(row.name, results["rows"][row.name]), sep="\n", flush=True)
    if _RUN.value and re.search(pattern, "Predicting a table"):
        name = f"Predicting a table, {_MOVIES.value} movies"
        results["rows"][name] = predicting(
            _TALK.value, _MOVIES.value, _WEIGHTS.value, _RUN.value, times
        )
        print(*_lines(name, results["rows"][name]), sep="\n", flush=True)
    if _VECTORS.value and re.search(pattern, "The talk's experiment"):
        name = f"The talk's experiment, {_MOVIES.value} movies"
        results["rows"][name] = talk(_TALK.value, _MOVIES.value, _WEIGHTS.value, _VECTORS.value)
    if not results["rows"]:
        raise InputError(f"--rows={pattern} matches none of: {', '.join(r.name for r in all_rows)}")
    return results


def model_flops_utilization(results: dict) -> float | None:
    """Computes the model FLOPs utilization of fine-tuning all of VGG16 in bfloat16.

    A training step takes three times the operations of a forward pass: the gradients of activations
    and of kernels each take as many as the forward pass.

    Returns:
      The fraction of the GPU's bfloat16 peak. None without a GPU, for a GPU whose peak is unknown,
      or if the row was not measured.
    """
    row = results["rows"].get("Fine-tuning everything, bfloat16")
    peak = results["gpu"] and machine.peak(results["gpu"])
    if row is None or not peak:
        return None
    return row["ours"] * 3 * work.FLOP_PER_POSTER / (peak * 1e12)


def table(results: dict) -> str:
    """Formats the figures as a table."""
    gpu = "" if results["gpu"] is None else f", {results['gpu']}"
    lines = [
        f"{results['machine']}{gpu}; {results['date']}; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        f"{'':<34}{'ours':>8}  {'against':<25}{'theirs':>8}{'ratio':>8}"
        f"{'from':>7}{'to':>7}{'target':>8}",
    ]
    for name, row in results["rows"].items():
        lines += _lines(name, row)
    lines.append(
        f"ours, theirs: posters, plots or movies per second, medians of {results['pairs']} "
        "timings; for the talk's experiment movies per minute, one run. ratio: ours / theirs, "
        "median over the pairs of timings; from, to: its minimum and maximum; target: the ratio "
        "to reach."
    )
    if results["gpu"] is None:
        lines.append("No GPU found: all figures are for the CPU.")
    if (share := model_flops_utilization(results)) is not None:
        lines.append(
            f"Our model FLOPs utilization when fine-tuning everything in bfloat16: "
            f"{100 * share:.0f} % of the peak of {results['gpu']}."
        )
    return "\n".join(lines)


def _lines(name: str, row: dict) -> list[str]:
    """Formats a row of the table: one line for each peer."""
    lines = []
    for number, (peer, figures) in enumerate(row["peers"].items()):
        first = f"{name:<34}{row['ours']:>8.1f}" if number == 0 else " " * 42
        target = "" if figures["target"] is None else f"{figures['target']:.1f}"
        lines.append(
            f"{first}  {peer:<25}{figures['rate']:>8.1f}{figures['ratio']:>8.2f}"
            f"{figures['least']:>7.2f}{figures['most']:>7.2f}{target:>8}"
        )
    return lines


def _version(package: str) -> str:
    """Returns the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f'{package} is not installed: pip install -e ".[bench]"') from error


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    given = [bool(_TALK.value), bool(_WEIGHTS.value), bool(_VECTORS.value or _RUN.value)]
    if any(given) and not all(given):
        raise app.UsageError("Use --talk and --weights together, with --vectors, --run or both.")
    try:
        results = run(_ROWS.value, _PAIRS.value)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    write_text(pathlib.Path(_OUTPUT.value), json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    app.run(main)
