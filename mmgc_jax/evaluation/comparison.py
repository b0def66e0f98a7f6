"""Compares finished runs: averages over seeds, intervals, and paired differences.

Runs that differ in nothing but their seed form a *group*, which counts as one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmgc_jax.evaluation import bootstrap, saved
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import Path, read_json, relative_to_here
from mmgc_jax.runtime.workdir import MAY_CHANGE, differences

# Fields of a config that may differ within a group: the seed, and fields without any effect on the
# figures.
_MAY_DIFFER = {"seed", "data.directory"} | MAY_CHANGE
SPLITS = (saved.CROSS_VALIDATION, "validation", "test", saved.SCORED)
# The figures that have intervals.
FIGURES = ("auc_macro", "auc_steady", "map", "f1_macro")
_COUNTS = ("movies", "genres_counted", "genres_steady")


class Run(NamedTuple):
    """A finished run, or a folder that `mmgc score` wrote.

    Attributes:
      folder: its working directory, or that folder.
      config: the config of the experiment.
      inputs: hashes of its input files, by field; of a scored table, the hash of its labels.
      results: the content of `results.json`.
    """

    folder: Path
    config: Mapping
    inputs: Mapping
    results: Mapping

    @property
    def name(self) -> str:
        """The folder; relative to the current one, if it is in it."""
        return str(relative_to_here(self.folder))


class Group(NamedTuple):
    """Runs that differ in nothing but their seed.

    Attributes:
      runs: in the order of the command line; at least one.
    """

    runs: Sequence[Run]

    @property
    def name(self) -> str:
        """The folder of the first run."""
        return self.runs[0].name


class Estimate(NamedTuple):
    """A figure of a group, or the difference of a figure to the baseline, and its interval.

    Attributes:
      value: the figure, or figure of the group minus that of the baseline.
      low: lower limit of the interval.
      high: upper limit of the interval.
    """

    value: float
    low: float
    high: float


def read(folders: Sequence[Path]) -> list[Run]:
    """Reads configs and figures of finished runs.

    Raises:
      InputError: if there is none, or one has not finished.
    """
    if not folders:
        raise InputError("Give the working directory of an experiment, or of several.")
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Run:
    advice = f"{folder} must be the working directory of a finished experiment."
    config, results = (read_json(folder / n, advice) for n in ("config.json", "results.json"))
    for name, content in (("config", config), ("results", results)):
        if not isinstance(content, dict) or (name == "config" and "seed" not in content):
            raise InputError(f"{folder / name}.json is not that of an experiment. {advice}")
    figures = [of for split in SPLITS for of in results.get(split, {}).values()]
    if not all("auc_steady" in of_model for of_model in figures):
        raise InputError(
            f"{folder / 'results.json'} was written by an earlier version, which computed other "
            f"figures. {advice}"
        )
    file = folder / "inputs.json"
    inputs = read_json(file, advice) if file.is_file() else {}
    return Run(folder, config, inputs if isinstance(inputs, dict) else {}, results)


def group(runs: Iterable[Run]) -> list[Group]:
    """Groups runs that differ in nothing but their seed, in their order.

    Raises:
      InputError: if two runs of a group have the same seed.
    """
    groups: list[list[Run]] = []
    for run in runs:
        for members in groups:
            if not fields_that_differ(members[0], run):
                break
        else:
            groups.append(members := [])
        for member in members:
            if member.config["seed"] == run.config["seed"]:
                raise InputError(
                    f"{member.name} and {run.name} have the same config and the same seed."
                )
        members.append(run)
    return [Group(members) for members in groups]


def fields_that_differ(one: Run, other: Run) -> dict[str, tuple]:
    """Returns the fields in which two runs differ, but those that have no effect and the seed.

    Returns:
      `{field: (value of one, value of the other)}`; a section that only one of them has is one
      field; `inputs.<field>` are hashes of input files, if the configs are equal.
    """
    fields = {}
    for name, values in differences(one.config, other.config).items():
        if name not in _MAY_DIFFER:
            fields[name] = values
    if not fields:
        inputs = differences(one.inputs, other.inputs)
        fields = {f"inputs.{name}": values for name, values in inputs.items()}
    return fields


def common_split(runs: Sequence[Run], wanted: str | None = None) -> str:
    """Returns the split to compare: the wanted one, or the first of `SPLITS` that all runs have.

    Raises:
      InputError: if a run does not have it.
    """
    present = [[split for split in SPLITS if split in run.results] for run in runs]
    for split in SPLITS if wanted is None else (wanted,):
        if all(split in names for names in present):
            return split
    for run, names in zip(runs, present):
        if wanted is not None and wanted not in names:
            raise InputError(
                f"{run.name} has no figures of {wanted}; it has: {', '.join(names) or 'none'}."
            )
    raise InputError(
        "The runs have no split in common: "
        + "; ".join(f"{run.name} has {', '.join(n) or 'none'}" for run, n in zip(runs, present))
        + "."
    )


def average(of_group: Group, split: str) -> dict[str, dict]:
    """Averages the figures of one split over the runs of a group.

    Args:
      of_group: the runs.
      split: a split that all of them have.

    Returns:
      `{model: figures}` for the models that all runs have, as `<model>` and `<model>_both`. The
      numbers of movies and genres are those of the first run. Every other figure is the mean over
      the runs. If there are several, `<figure>_std` is its standard deviation over them.
    """
    first, *others = (run.results[split] for run in of_group.runs)
    return {
        name: _average([first[name], *(other[name] for other in others)])
        for name in first
        if all(name in other for other in others)
    }


def _average(figures: Sequence[Mapping]) -> dict:
    first = figures[0]
    averaged = {name: first[name] for name in _COUNTS if name in first}
    for name in first:
        if name in _COUNTS or name.endswith("_std"):
            continue
        if not all(isinstance(of.get(name, ""), float | int | None) for of in figures):
            continue
        values = [math.nan if of[name] is None else of[name] for of in figures]
        averaged[name] = float(np.mean(values))
        if len(values) > 1:
            averaged[f"{name}_std"] = float(np.std(values, ddof=1))
    return averaged


class _Sample(NamedTuple):
    """The movies of one split that a model has judged, sorted by their ids."""

    ids: np.ndarray
    labels: np.ndarray
    genres: np.ndarray
    resampled: bootstrap.Resampled


class Intervals:
    """Computes figures and paired differences with intervals, by bootstrap over movies.

    Every resample draws movies, and computes the figures of all runs on the same ones; of a group
    of several seeds, the mean over them.
    """

    def __init__(self, split: str, number: int = bootstrap.RESAMPLES, seed: int = 0):
        """Stores the arguments.

        Args:
          split: whose movies are drawn.
          number: number of resamples.
          seed: of the resamples.
        """
        self._split, self._number, self._seed = split, number, seed
        self._predictions: dict[str, saved.Saved] = {}

    def figures(self, of_group: Group, model: str) -> dict[str, Estimate]:
        """Estimates each of `FIGURES`.

        Args:
          of_group: a group.
          model: `<model>` or `<model>_both`, which the group has.

        Raises:
          NotPaired: if the predictions are not known, or there are too few movies.
        """
        values = self._resample([(run, model) for run in of_group.runs])
        averaged = average(of_group, self._split)[model]
        return {
            name: Estimate(
                averaged[name], *bootstrap.interval(np.mean([of[name] for of in values], axis=0))
            )
            for name in FIGURES
        }

    def differences(self, of_group: Group, baseline: Group, model: str) -> dict[str, Estimate]:
        """Estimates the difference of each of `FIGURES`.

        Args:
          of_group: a group.
          baseline: the group that it is compared with.
          model: `<model>` or `<model>_both`, which both groups have.

        Raises:
          OtherMovies: if they have not judged the same movies, or not with the same labels.
          NotPaired: if that is not known, or there are too few movies.
        """
        runs = (*of_group.runs, *baseline.runs)
        values = self._resample([(run, model) for run in runs])
        count = len(of_group.runs)
        averages = [average(one, self._split)[model] for one in (of_group, baseline)]
        result = {}
        for name in FIGURES:
            ours, theirs = (
                np.mean([of[name] for of in part], axis=0)
                for part in (values[:count], values[count:])
            )
            value = averages[0][name] - averages[1][name]
            result[name] = Estimate(value, *bootstrap.interval(ours - theirs))
        return result

    def gain(self, run: Run, model: str, other: str) -> dict[str, Estimate]:
        """Estimates by how much a model of a run exceeds another one in each of `FIGURES`.

        Args:
          run: the run.
          model: a model of it; with `other` on the same movies, such as `fusion_both`.
          other: the model that is subtracted.

        Raises:
          NotPaired: as `differences`.
        """
        ours, theirs = self._resample([(run, model), (run, other)])
        figures = average(Group([run]), self._split)
        return {
            name: Estimate(
                figures[model][name] - figures[other][name],
                *bootstrap.interval(ours[name] - theirs[name]),
            )
            for name in FIGURES
        }

    def _resample(self, judges: Sequence[tuple[Run, str]]) -> list[dict[str, np.ndarray]]:
        """Computes the figures of models, each of a run, on the same resamples of the movies."""
        samples = [self._sample(run, model) for run, model in judges]
        first_run, first = judges[-1][0], samples[-1]
        for (run, _), sample in zip(judges, samples):
            _require_same(first_run, first, run, sample)
        if len(first.ids) < bootstrap.LEAST_MOVIES:
            raise NotPaired(f"too few movies, {len(first.ids)}")
        return bootstrap.figures_of_resamples(
            [sample.resampled for sample in samples], self._number, self._seed
        )

    def _sample(self, run: Run, model: str) -> _Sample:
        predictions = self._read(run)
        name = model.removesuffix("_both")
        if name not in predictions.models:
            raise NotPaired(f"{saved.FILE} of {run.name} lacks {name}")
        index = list(predictions.models).index(name)
        wanted = (predictions.split == self._split) & predictions.present[index]
        if name != model:
            wanted &= predictions.both
        rows = np.flatnonzero(wanted)
        rows = rows[np.argsort(predictions.ids[rows], kind="stable")]
        labels = predictions.labels[rows]
        folds = predictions.folds[rows] if self._split == saved.CROSS_VALIDATION else None
        resampled = bootstrap.Resampled(labels, predictions.probabilities[index, rows], None, folds)
        return _Sample(predictions.ids[rows], labels, predictions.genres, resampled)

    def _read(self, run: Run) -> saved.Saved:
        key = str(run.folder)
        if key not in self._predictions:
            file = run.folder / saved.FILE
            if (predictions := saved.load(file)) is None:
                raise NotPaired(
                    f"{run.name} has no {saved.FILE}, as earlier versions did not write it; "
                    f"{saved.how_to_write(file)}"
                )
            self._predictions[key] = predictions
        return self._predictions[key]


class NotPaired(Exception):
    """Runs have no interval; the message is the reason, without a full stop."""


class OtherMovies(NotPaired):
    """Two runs were judged on other movies or genres, so their figures are not comparable."""


def _require_same(first_run: Run, first: _Sample, run: Run, sample: _Sample) -> None:
    """Raises `OtherMovies` unless two samples are of the same movies with the same labels."""
    if not np.array_equal(first.genres, sample.genres):
        raise OtherMovies(f"{run.name} has other genres than {first_run.name}")
    if not np.array_equal(first.ids, sample.ids):
        shared = len(np.intersect1d(first.ids, sample.ids))
        raise OtherMovies(
            f"{run.name} has judged other movies than {first_run.name}: {len(sample.ids):,} "
            f"and {len(first.ids):,}, and {shared:,} are in both"
        )
    if differing := int(np.any(first.labels != sample.labels, axis=1).sum()):
        raise OtherMovies(
            f"{differing:,} of the {len(first.ids):,} movies have other genres in {run.name} "
            f"than in {first_run.name}"
        )
