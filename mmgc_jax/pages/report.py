"""Writes `report.html`, one page about a finished run, from its working directory.

The page needs no network and has at most 5 MB. Everything on it comes from the files of the run:
figures and tables from `results.json`, `predictions.npz` and `figures/`, movies from
`gallery.jsonl`, the command and times from `run.log`.
"""

import hashlib
import io
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

from mmgc_jax import pages, settings
from mmgc_jax.configs import default
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.evaluation import bootstrap, comparison, gallery, history, saved, tables
from mmgc_jax.evaluation.results import is_fusion
from mmgc_jax.ops.kernels import Kernels
from mmgc_jax.pages.galleries import Galleries
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import parallel
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, as_path, relative_to_here, write_text
from mmgc_jax.runtime.workdir import differences

logger = logging.getLogger(__name__)

FILE = "report.html"
# Explanations at the end of a run: the demo must not take more than 20 s longer for its report.
EXPLAINED, _SECONDS = 24, 10.0
# Bytes of all images of figures; a figure that does not fit is named instead of shown.
_MOST_FIGURE_BYTES = 1_500_000
_WIDEST = 1400  # pixels of a figure
_COLUMNS = {"auc_macro": "macro AUC", "map": "mAP", "f1_macro_tuned": "macro F1"}
# The figures of a run in the order of the page: title, and how to read it.
_FIGURES = {
    "roc": (
        "ROC curves",
        "The further a curve is to the upper left, the better: more movies of a genre are found "
        "(upwards) for the same share of false alarms (to the right). All genres are pooled.",
    ),
    "auc_per_genre": ("AUC of each genre", "0.5 is guessing, 1 is perfect."),
    "precision_recall": (
        "Precision and recall of each genre",
        "How many of the predicted movies are right, and how many of the right ones are predicted, "
        "at all thresholds.",
    ),
    "f1_per_genre": ("F1 of each genre", "At 0.5, and at the genre's own threshold."),
    "cooccurrence": ("Genres together", "Which genres stand together, in truth and in answers."),
    "reliability": (
        "Calibration",
        "If 70 % is said, it should be true 70 times of 100: on the diagonal probabilities mean "
        "what they say.",
    ),
    "missing_modalities": (
        "Missing modalities",
        "Macro AUC if a share of the movies loses its plot, or its poster.",
    ),
    "learning_curves": ("Learning curves", "Training loss by step, for each fold's model."),
}  # fmt: skip


def after_training(folder) -> None:
    """Writes the report at the end of a run, and prints where it is; on process 0 only.

    A report on the same results, of a run that had finished before, is kept. If the report cannot
    be written, a warning says why: the run itself has finished.

    Args:
      folder: the working directory, as `experiment.run` takes it.
    """
    if not parallel.is_first():
        return
    workdir = as_path(folder)
    # Parameters of several processes are read by all of them together.
    explained = EXPLAINED if parallel.is_alone() else 0
    try:
        file = workdir / FILE
        if not (file.is_file() and _fingerprint(workdir) in file.read_text(encoding="utf-8")):
            write(workdir, explained=explained, seconds=_SECONDS)
    except (InputError, OSError) as error:
        logger.warning("%s is not written: %s `mmgc report` tries again.", workdir / FILE, error)
        return
    print(f"Report:      {relative_to_here(file)}", flush=True)


def write(workdir: Path, *, explained: int = EXPLAINED, seconds: float = math.inf) -> Path:
    """Writes `report.html` of a finished run; returns its path.

    Args:
      workdir: the working directory.
      explained: number of movies of the galleries that are explained, at most.
      seconds: no explanation is begun after this time.

    Raises:
      InputError: if it is not the working directory of a finished experiment of this version.
      OSError: if the file cannot be written.
    """
    content = html(workdir, explained=explained, seconds=seconds)
    write_text(workdir / FILE, content)
    return workdir / FILE


def _fingerprint(workdir: Path) -> str:
    """Returns a hash of the figures and predictions of a run, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in ("results.json", saved.FILE):
        if (workdir / name).is_file():
            digest.update((workdir / name).read_bytes())
    return digest.hexdigest()


class _Run(NamedTuple):
    """A finished run, read.

    Attributes:
      workdir: its working directory.
      predictor: its models.
      run: its config and figures.
      split: the split that the page is about.
      titles: title of each model that has figures.
      predictions: of its models; None if the run has none.
    """

    workdir: Path
    predictor: Predictor
    run: comparison.Run
    split: str
    titles: Mapping[str, str]
    predictions: saved.Saved | None

    @property
    def config(self) -> ml_collections.ConfigDict:
        return self.predictor.config

    @property
    def figures(self) -> Mapping[str, Mapping]:
        return self.run.results[self.split]


def html(workdir: Path, *, explained: int = EXPLAINED, seconds: float = math.inf) -> str:
    """Returns the report; the arguments and errors are those of `write`."""
    # Few movies are explained, so programs that compile fast take less time than fast ones.
    predictor = Predictor.load(workdir, Kernels())
    (run,) = comparison.read([workdir])
    split = saved.shown_split(run.results)
    if split not in run.results or "fusion" not in run.results[split]:
        raise InputError(f"{workdir / 'results.json'} has no figures of fusion.")
    titles = {
        name: title
        for name, title in fusion.titles(predictor.config).items()
        if name in run.results[split]
    }
    read = _Run(workdir, predictor, run, split, titles, saved.load(workdir / saved.FILE))
    intervals = comparison.Intervals(split)
    name = workdir.name or str(workdir)
    body = (
        pages.environment()
        .get_template("report.html")
        .render(
            fingerprint=_fingerprint(workdir),
            headline=_headline(read, intervals),
            parts=_models(read, intervals),
            columns=list(_COLUMNS.values()),
            notes=_notes(read),
            figures=_figures(workdir),
            genres=_genres(read),
            galleries=_galleries(read, explained, seconds),
            changes=_changes(read.config),
            config=json.dumps(run.config, indent=2),
            history=_history(read),
        )
    )
    return pages.document(f"Movie genres: {name}", body, pages.style("report"))


def _headline(read: _Run, intervals: comparison.Intervals) -> dict[str, Any]:
    figures, config = read.figures["fusion"], read.config
    auc, movies = _value(figures, "auc_macro"), figures["movies"]
    estimate = _estimate(read, intervals, "fusion")
    encoders = [read.titles[name] for name in config.encoders if name in read.titles]
    fused = [read.titles[name] for name in config.fusion.encoders if name in read.titles]
    return {
        "trained": encoders,
        "fused": fused,
        "source": tables.SOURCES[config.data.source],
        "train": _count(read, saved.CROSS_VALIDATION),
        "movies": f"{movies:,}",
        "split": read.split,
        "genres": len(read.predictor.genres),
        "auc": tables.number(auc),
        "interval": _limits(estimate, movies),
        "of_hundred": None if math.isnan(auc) else f"{100 * auc:.0f}",
        "map": tables.number(_value(figures, "map")),
        "f1": tables.number(_value(figures, "f1_macro_tuned")),
        "gain": _gain(read, intervals),
    }


def _count(read: _Run, split: str) -> str:
    """Counts the movies of a split."""
    if read.predictions is not None:
        return f"{int((read.predictions.split == split).sum()):,}"
    return f"{read.run.results[split]['fusion']['movies']:,}"


def _gain(read: _Run, intervals: comparison.Intervals) -> dict[str, Any] | None:
    """Compares fusion with the best encoder, on movies with both; None if that is impossible."""
    names = [name for name in read.titles if not is_fusion(name)]
    both = {name: read.figures[f"{name}_both"] for name in (*names, "fusion")}
    if len(names) < 2 or not both["fusion"]["movies"]:
        return None
    aucs = {name: _value(both[name], "auc_macro") for name in names}
    best = max(aucs, key=lambda name: (not math.isnan(aucs[name]), aucs[name]))
    gain = _value(both["fusion"], "auc_macro") - aucs[best]
    if not math.isfinite(gain):
        return None
    movies, limits = both["fusion"]["movies"], None
    try:
        found = intervals.gain(read.run, "fusion_both", f"{best}_both")["auc_macro"]
        if bootstrap.is_shown(movies, found.low, found.high):
            limits = f"{_plus(found.low)} to {_plus(found.high)}"
    except (comparison.NotPaired, InputError) as error:
        logger.debug("The gain of fusion has no interval: %s.", error)
    return {
        "value": _plus(gain),
        "amount": tables.number(abs(gain)),
        "better": gain > 0,
        "best": read.titles[best],
        "best_auc": tables.number(aucs[best]),
        "fusion_auc": tables.number(_value(both["fusion"], "auc_macro")),
        "movies": f"{movies:,}",
        "interval": limits,
    }


def _models(read: _Run, intervals: comparison.Intervals) -> list[dict]:
    """Makes the table of models: for each part a subtitle, and a row for each model."""
    parts = []
    for suffix, subtitle in tables.parts(read.figures, list(read.titles)):
        rows = []
        for name, title in read.titles.items():
            figures = read.figures[name + suffix]
            estimate = _estimate(read, intervals, name + suffix)
            rows.append(
                {
                    "title": title,
                    "fusion": is_fusion(name),
                    "movies": f"{figures['movies']:,}",
                    "interval": _limits(estimate, figures["movies"]),
                    "numbers": [tables.number(_value(figures, column)) for column in _COLUMNS],
                    "bar": _bar(_value(figures, "auc_macro"), estimate),
                }
            )
        parts.append({"subtitle": subtitle, "rows": rows})
    return parts


def _bar(auc: float, estimate: comparison.Estimate | None) -> dict[str, str] | None:
    """Places a figure and its interval on a bar from 0.5 to 1, in percent of its width."""
    if math.isnan(auc):
        return None

    def share(value: float) -> float:
        return min(100.0, max(0.0, 200 * (value - 0.5)))

    low, high = (estimate.low, estimate.high) if estimate else (auc, auc)
    return {
        "width": f"{share(auc):.1f}",
        "low": f"{share(low):.1f}",
        "span": f"{share(high) - share(low):.1f}",
    }


def _estimate(
    read: _Run, intervals: comparison.Intervals, model: str
) -> comparison.Estimate | None:
    """Returns macro AUC of a model with an interval that says enough; None if there is none."""
    try:
        found = intervals.figures(comparison.Group([read.run]), model)["auc_macro"]
    except (comparison.NotPaired, InputError) as error:
        logger.debug("%s has no interval: %s.", model, error)
        return None
    movies = read.figures[model]["movies"]
    return found if bootstrap.is_shown(movies, found.low, found.high) else None


def _limits(estimate: comparison.Estimate | None, movies: int) -> str | None:
    if estimate is None:
        return None
    return f"{tables.number(estimate.low)} to {tables.number(estimate.high)}"


def _notes(read: _Run) -> list[str]:
    """Returns sentences on how to read the figures."""
    figures, genres = read.figures["fusion"], len(read.predictor.genres)
    notes = [
        "Macro AUC: mean over the genres of the chance that a movie with the genre gets a higher "
        "probability than one without. mAP: mean over the genres of the average precision. Macro "
        "F1: at the threshold of each genre, tuned on training movies. Differences are computed "
        "before rounding."
    ]
    if (counted := figures["genres_counted"]) < genres:
        notes.append(
            f"Averages are over {counted} of {genres} genres: those with a positive and a negative "
            "movie."
        )
    if len(registry.fused_modalities(read.config)) > 1:
        notes.append("Fusion predicts a movie without a poster, or without a plot, from the other.")
    return notes


def _figures(workdir: Path) -> list[dict]:
    """Reads the pictures of the run; those that cannot be read, or are too large, have no image."""
    found, left = [], _MOST_FIGURE_BYTES
    for name, (title, caption) in _FIGURES.items():
        file = workdir / "figures" / f"{name}.png"
        try:
            picture, width, height = _small_png(file.read_bytes())
        except FileNotFoundError:
            continue  # such as missing modalities, if there is only one modality
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read, and is left out: %s", file, error)
            continue
        fits = len(picture) <= left
        left -= len(picture) if fits else 0
        found.append(
            {
                "name": name,
                "title": title,
                "caption": caption,
                "image": pages.data_url(picture, "png") if fits else None,
                "width": width,
                "height": height,
                "file": f"figures/{name}.png",
            }
        )
    return found


def _small_png(content: bytes) -> tuple[bytes, int, int]:
    """Makes a PNG with fewer colours, which is a third as large; returns its size, too."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        picture = image.convert("RGB")
    if picture.width > _WIDEST:
        height = round(picture.height * _WIDEST / picture.width)
        picture = picture.resize((_WIDEST, height), Image.Resampling.LANCZOS)
    few = picture.quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(stream := io.BytesIO(), "PNG", optimize=True)
    return stream.getvalue(), picture.width, picture.height


def _genres(read: _Run) -> list[dict]:
    figures = read.figures["fusion"]
    return [
        {
            "genre": genre,
            "positives": f"{of_genre['positives']:,}",
            "numbers": [
                tables.number(_value(of_genre, name))
                for name in ("auc", "average_precision", "f1_tuned")
            ],
            "threshold": tables.number(_value(figures["thresholds"], genre)),
            "bar": _bar(_value(of_genre, "auc"), None),
        }
        for genre, of_genre in figures["per_genre"].items()
    ]


def _galleries(read: _Run, explained: int, seconds: float) -> list[dict]:
    if read.predictions is None:
        logger.info("%s is missing: the report has no galleries.", read.workdir / saved.FILE)
        return []
    movies = gallery.load(read.workdir, read.predictions)
    galleries = Galleries(read.predictions, read.split, movies)
    if movies and explained:
        started = time.monotonic()
        galleries.explain(read.predictor, explained, started + seconds)
    return galleries.to_template()


def _changes(config: ml_collections.ConfigDict) -> list[dict]:
    """Lists the fields that differ from the default: of configs/default.py, and of each kind."""
    changed = {}
    mine = settings.as_json(config)
    shared = settings.as_json(default.get_config())
    sections = {name: mine.pop(name) for name in config.encoders if name in mine}
    changed |= differences(shared, mine)
    for name, section in sections.items():
        defaults = settings.as_json(registry.of(config, name).default_settings())
        found = differences(defaults, section)
        changed |= {f"{name}.{field}": values for field, values in found.items()}
    return [
        {"field": field, "default": _plain(before), "value": _plain(now)}
        for field, (before, now) in changed.items()
    ]


def _plain(value) -> str:
    return "—" if value is None else json.dumps(value, ensure_ascii=False)


def _history(read: _Run) -> dict[str, Any]:
    found = history.read(read.workdir)
    titles = fusion.titles(read.config)
    return {
        "commands": found.commands,
        "versions": found.versions,
        "started": found.started,
        "times": [(titles.get(name, name), _time(s)) for name, s in found.seconds.items()],
        "total": _time(sum(found.seconds.values())) if found.seconds else "",
        "folder": str(read.workdir),
    }


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _value(figures: Mapping, name: str) -> float:
    """Returns a figure of results.json, in which undefined ones are None."""
    value = figures.get(name)
    return math.nan if value is None else float(value)


def _plus(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
