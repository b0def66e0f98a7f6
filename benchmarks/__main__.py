"""How fast this project is beside the same work in PyTorch, on this machine.

    pip install -e ".[bench]"
    python -m benchmarks --output=benchmarks.json

Ours and each peer take turns, each in a process of its own, so that a ratio is of two times that
were taken side by side. Prints a table and writes it as JSON. With --talk, --weights and --vectors
(see the README for what these files are) a whole experiment is run too, once on each side. On an
NVIDIA GPU everything is fine-tuned in batches of 128, and cuDNN's LSTM has a row.
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
from mmgc_jax.configs import default
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_text

_DTYPES = ("float32", "bfloat16")

_OUTPUT = flags.DEFINE_string("output", "benchmarks.json", "The figures, as JSON.")
_PAIRS = flags.DEFINE_integer("pairs", 5, "How often ours and each peer take turns.", lower_bound=1)
_ROWS = flags.DEFINE_string("rows", "", "Only rows whose name matches this regular expression.")
_TALK = flags.DEFINE_string("talk", "", "Folder of movies.csv and posters/, of the talk's data.")
_MOVIES = flags.DEFINE_integer("movies", 600, "How many of them take part.", lower_bound=100)
_WEIGHTS = flags.DEFINE_string("weights", "", "VGG16's weights, an .npz file.")
_VECTORS = flags.DEFINE_string("vectors", "", "Word vectors, a binary file of word2vec.")


@dataclasses.dataclass(frozen=True)
class Row:
    """A piece of work that is compared.

    Attributes:
      name: of the work.
      unit: of its rates.
      ours: as of `pairs.measure`.
      peers: likewise.
      asked: the ratio that is aimed at, for each peer.
    """

    name: str
    unit: str
    ours: tuple[str, dict]
    peers: dict[str, tuple[str, dict]]
    asked: dict[str, float | None]


def rows(on_gpu: bool) -> list[Row]:
    """All that is compared."""
    # On a GPU the aim is set for bfloat16, on a CPU for PyTorch's float32.
    batch_size, asked = (128, (None, 1.0)) if on_gpu else (8, (1.0, None))
    return [
        *_in_both("VGG16 features", "posters/s", "vgg16_features", {}, (1.2, 0.8)),
        *_in_both("Fine-tuning from block5", "posters/s", "finetune",
                  {"first_block": 5, "batch_size": 32}, (1.0, 1.0)),
        *_in_both("Fine-tuning everything", "posters/s", "finetune",
                  {"first_block": 1, "batch_size": batch_size}, asked),
        *_in_both("LSTM, length 200", "plots/s", "plot_lstm", {"lengths": "equal", "bucket": 8},
                  (1.0, 1.0) if on_gpu else (5.0, 5.0), "float32" if on_gpu else "bfloat16"),
        *([_cudnn()] if on_gpu else []),
        _buckets(),
    ]  # fmt: skip


def _in_both(name, unit, function, sizes, asked, fastest="bfloat16") -> list[Row]:
    """Ours in float32 and in bfloat16, each against PyTorch's in both.

    The aims stand with the one that is the fastest of ours.
    """
    peers = _peers(function, sizes)
    return [
        Row(
            f"{name}, {dtype}",
            unit,
            (f"benchmarks.ours:{function}", sizes | {"dtype": dtype}),
            peers,
            dict(zip(peers, asked)) if dtype == fastest else dict.fromkeys(peers),
        )
        for dtype in _DTYPES
    ]


def _peers(function: str, sizes: dict) -> dict[str, tuple[str, dict]]:
    """PyTorch's side, in both dtypes."""
    return {
        f"PyTorch {dtype}": (f"benchmarks.torch_peer:{function}", sizes | {"dtype": dtype})
        for dtype in _DTYPES
    }


def _cudnn() -> Row:
    sizes = {"lengths": "equal", "bucket": 8}
    ours = ("benchmarks.ours:plot_lstm", sizes | {"lstm": "cudnn"})
    peers = _peers("plot_lstm", sizes)
    return Row("LSTM by cuDNN, length 200", "plots/s", ours, peers, dict.fromkeys(peers, 1.0))


def _buckets() -> Row:
    def ours(bucket):
        return "benchmarks.ours:plot_lstm", {"lengths": "real", "bucket": bucket}

    name, bucket = "ours, all padded to 256", default.get_config().plot.bucket
    return Row("LSTM, real lengths", "plots/s", ours(bucket), {name: ours(256)}, {name: 2.0})


def talk(folder: str, movies: int, weights: str, vectors: str) -> dict:
    """Times a whole experiment of the talk, ours and `torch_talk`, each once; as of `measure`."""
    config = pathlib.Path(configs.__path__[0]) / "talk.py"
    with tempfile.TemporaryDirectory() as name:
        part, workdir = pathlib.Path(name, "talk"), pathlib.Path(name, "run")
        part.mkdir()
        (part / "posters").symlink_to(pathlib.Path(folder, "posters").resolve())
        with open(f"{folder}/movies.csv", newline="", encoding="utf-8") as source:
            lines = list(itertools.islice(csv.reader(source), movies + 1))
        with open(part / "movies.csv", "w", newline="", encoding="utf-8") as target:
            csv.writer(target).writerows(lines)
        ours = _seconds("mmgc_jax.main", f"--config={config}", f"--workdir={workdir}",
                        f"--config.data.path={part}", f"--config.poster.weights={weights}",
                        f"--config.plot.vectors.file={vectors}",
                        "--config.poster.dtype=bfloat16")  # fmt: skip
        theirs = _seconds("benchmarks.torch_talk", str(part), weights, vectors)
    figures = {"rate": 60 * movies / theirs, "asked": 2.0}
    figures |= dict.fromkeys(("ratio", "least", "most"), theirs / ours)
    return {"unit": "movies/min", "ours": 60 * movies / ours, "peers": {"PyTorch": figures}}


def _seconds(module: str, *arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)
    return time.perf_counter() - start


def run(wanted: str, times: int) -> dict:
    """Measures the rows whose names match; returns what is written as JSON."""
    gpu = machine.gpu()
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(),
        "versions": {name: _version(name) for name in ("jax", "jaxlib", "flax", "torch")},
        "gpu": gpu,
        "pairs": times,
        "rows": {},
    }
    possible = rows(on_gpu=gpu is not None)
    for row in possible:
        if re.search(wanted, row.name):
            measured = pairs.measure(row.ours, row.peers, times)
            for peer, figures in measured["peers"].items():
                figures["asked"] = row.asked[peer]
            results["rows"][row.name] = {"unit": row.unit} | measured
            print(*_lines(row.name, results["rows"][row.name]), sep="\n", flush=True)
    if _TALK.value and re.search(wanted, "The talk's experiment"):
        found = talk(_TALK.value, _MOVIES.value, _WEIGHTS.value, _VECTORS.value)
        results["rows"][f"The talk's experiment, {_MOVIES.value} movies"] = found
    if not results["rows"]:
        raise InputError(f"--rows={wanted} matches none of: {', '.join(r.name for r in possible)}")
    return results


def share_of_peak(results: dict) -> float | None:
    """Of what the GPU can do in bfloat16, how much full fine-tuning does; None where unknown.

    Training takes three times the forward pass's sums and products: those of the gradients of
    activations and of kernels are as many.
    """
    row = results["rows"].get("Fine-tuning everything, bfloat16")
    peak = results["gpu"] and machine.peak(results["gpu"])
    if row is None or not peak:
        return None
    return row["ours"] * 3 * work.FLOP_OF_A_POSTER / (peak * 1e12)


def table(results: dict) -> str:
    """The figures as text."""
    gpu = "" if results["gpu"] is None else f", {results['gpu']}"
    lines = [
        f"{results['machine']}{gpu}; {results['date']}; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        f"{'':<34}{'ours':>8}  {'against':<25}{'theirs':>8}{'ratio':>8}"
        f"{'from':>7}{'to':>7}{'asked':>7}",
    ]
    for name, row in results["rows"].items():
        lines += _lines(name, row)
    lines.append(
        f"Posters or plots per second, medians of {results['pairs']} turns; of the talk's "
        "experiment, movies per minute, once. Ratio: ours over theirs, the median of the pairs; "
        "from, to: the least and the most."
    )
    if results["gpu"] is None:
        lines.append("No GPU is at hand: these are figures of the CPU alone.")
    if (share := share_of_peak(results)) is not None:
        lines.append(
            f"Ours fine-tunes everything at {100 * share:.0f} % of the bfloat16 peak of "
            f"{results['gpu']}."
        )
    return "\n".join(lines)


def _lines(name: str, row: dict) -> list[str]:
    """A row of the table, one line for each peer."""
    lines = []
    for number, (peer, figures) in enumerate(row["peers"].items()):
        first = f"{name:<34}{row['ours']:>8.1f}" if number == 0 else " " * 42
        asked = "" if figures["asked"] is None else f"{figures['asked']:.1f}"
        lines.append(
            f"{first}  {peer:<25}{figures['rate']:>8.1f}{figures['ratio']:>8.2f}"
            f"{figures['least']:>7.2f}{figures['most']:>7.2f}{asked:>7}"
        )
    return lines


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f'{package} is not installed: pip install -e ".[bench]"') from error


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    given = [bool(flag.value) for flag in (_TALK, _WEIGHTS, _VECTORS)]
    if any(given) and not all(given):
        raise app.UsageError("--talk, --weights and --vectors go together.")
    try:
        results = run(_ROWS.value, _PAIRS.value)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    write_text(pathlib.Path(_OUTPUT.value), json.dumps(results, indent=2) + "\n")
    print(table(results))


if __name__ == "__main__":
    app.run(main)
