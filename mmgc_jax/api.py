"""Trains on a table of movies from Python.

>>> import mmgc_jax
>>> predictor = mmgc_jax.train("movies.csv", "runs/own")
>>> probabilities = predictor([mmgc_jax.Movie(plot="A retired spy returns.")])
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from mmgc_jax import config_flag, experiment
from mmgc_jax.data import table
from mmgc_jax.pages import report as pages_report
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError, did_you_mean
from mmgc_jax.runtime.files import as_path, write_atomically


def train(
    movies,
    workdir,
    config: str | ml_collections.ConfigDict = "own",
    *,
    report: bool = True,
    **overrides,
) -> Predictor:
    """Trains on a table, as `mmgc train` does; returns a predictor of its genres.

    The call resumes a training that was interrupted, and does not repeat one that has finished.

        mmgc_jax.train(frame, "runs/own", encoders=("plot",), data={"posters": "images"})

    Args:
      movies: a path, a pandas data frame or a pyarrow table. Needed are a column of genres, and one
        of plots or posters; `mmgc_jax.data.table` says how they are found.
      workdir: path of the working directory, which is made if it does not exist.
      config: name or path of a config, as after `--config`, or a config.
      report: whether to write `report.html`, a page on the run.
      **overrides: values of fields; those of a section are a dictionary. `data={"genres": ...}` can
        be a dictionary of new names, such as `{"Science Fiction": "Sci-Fi"}`.

    Returns:
      The predictor, as `Predictor.load` makes it.

    Raises:
      InputError: if the table or the config has mistakes; as `experiment.run` raises.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C); finished work is saved.
    """
    if isinstance(config, str):
        config = config_flag.load(config)
    config = ml_collections.ConfigDict(config).unlock()  # a copy
    data = dict(overrides.get("data", {}))
    if isinstance(genres := data.get("genres"), Mapping):
        data["genres"] = tuple(f"{old}={new}" for old, new in genres.items())
    if data:
        overrides["data"] = data
    _override(config, overrides, "")
    config.data.source = "table"
    config.data.path = _path(movies, config, workdir)
    experiment.run(config.lock(), workdir)
    if report:
        pages_report.after_training(workdir)
    return Predictor.load(workdir)


def _override(section: ml_collections.ConfigDict, values: Mapping[str, Any], place: str) -> None:
    """Sets fields of a section, and of the sections in it."""
    for name, value in values.items():
        if name not in section:
            hint = did_you_mean(name, section, place + "{}") or f"It has {', '.join(section)}."
            raise InputError(
                f"{place}{name} is not a field of {place.rstrip('.') or 'the config'}. {hint}"
            )
        if isinstance(value, Mapping) and isinstance(section[name], ml_collections.ConfigDict):
            _override(section[name], value, f"{place}{name}.")
        else:
            try:
                section[name] = value
            except TypeError as error:
                raise InputError(f"{place}{name} cannot be {value!r}: {error}") from error


def _path(movies, config: ml_collections.ConfigDict, workdir) -> str:
    """Returns the path of a table; a data frame is written to the folder of the run's data."""
    if isinstance(movies, str | pathlib.PurePath):
        return str(movies)
    if type(movies).__module__.split(".")[0] == "pyarrow":
        movies = movies.to_pandas()
    names = [str(name) for name in movies.columns]
    roles = table.used_columns(names, table.TableSettings.to_train(config.data))
    used = list(roles.values())
    frame = movies.iloc[:, [names.index(name) for name in used]].set_axis(used, axis="columns")
    if "poster" in roles:
        frame = frame.assign(**{roles["poster"]: frame[roles["poster"]].map(_absolute)})
    # JSON keeps lists, dictionaries and missing values, and needs no further library.
    lines = frame.to_json(orient="records", lines=True, date_format="iso")
    file = experiment.data_directory(config, as_path(workdir)) / "table.jsonl"
    write_atomically(file, lambda stream: stream.write(lines.encode()))
    return str(file)


def _absolute(poster):
    """Makes the path of a poster absolute; returns what is no path of a file as it is."""
    is_path = isinstance(poster, str | os.PathLike) and os.path.isfile(poster)
    return os.path.abspath(poster) if is_path else poster
