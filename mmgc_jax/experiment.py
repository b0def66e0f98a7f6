"""Runs a whole experiment: reads the data, trains encoders and fusions, writes the report.

Each step saves its result in the working directory. An experiment that is run again skips finished
steps and resumes unfinished ones.
"""

import contextlib
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_collections
import numpy as np

from mmgc_jax import settings
from mmgc_jax.data import builder, pipeline, splits, synthetic
from mmgc_jax.encoders import estimate, fusion, joint, registry
from mmgc_jax.encoders.base import MODALITIES
from mmgc_jax.evaluation import calibration, gallery, history, report, results, saved
from mmgc_jax.ops import kernels
from mmgc_jax.runtime import parallel, preemption, workdir
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import (
    Path,
    as_path,
    cache_folder,
    check_workdir,
    disk_error,
    flush_lines,
    is_address,
    write_text,
)
from mmgc_jax.runtime.locks import exclusive
from mmgc_jax.training.cross_fit import cross_fit
from mmgc_jax.training.run import Experiment

logger = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


def run(config: ml_collections.ConfigDict, folder, command: str = "") -> dict:
    """Runs an experiment, or resumes it.

    Args:
      config: the fields of `configs/default.py`, and a section for each encoder.
      folder: path of the working directory, which is made if it does not exist; also in a bucket,
        `gs://...`.
      command: the command line that was given, for the log; may be empty.

    Returns:
      The content of `results.json`.

    Raises:
      InputError: if the config has mistakes, if the data, the weights or the working directory
        cannot be used, or if the disk is full.
      Interrupted: if a stop was requested (SIGTERM or Ctrl-C); finished work is saved.
    """
    folder = as_path(folder)
    check_workdir(folder)
    config = settings.without_unused_encoders(config)
    config = settings.choose_dtypes(config, workdir.recorded_config(folder))
    if is_address(folder) and config.get("tensorboard"):
        raise InputError(
            f"config.tensorboard is True, but its files cannot be written to {folder}; "
            "metrics.jsonl has the same figures."
        )
    as_given = settings.as_json(config)
    workdir.check_unchanged(folder, as_given)
    directory = data_directory(config, folder)
    with _reporting_full_disk(folder), parallel.first_process_first():
        config, inputs = settings.check_and_copy_inputs(config, directory / "copies")
    with (
        _reporting_full_disk(folder),
        exclusive(folder),
        workdir.logging_to(folder / "run.log"),
    ):
        try:
            if command:
                logger.info("%s", history.command_line(command))
            logger.info("%s", history.versions_line())
            experiment = _begin(config, folder, directory, as_given, inputs)
            arrays, present = _train(experiment)
            return _report(experiment, arrays, present)
        finally:
            flush_lines()


def data_directory(config: ml_collections.ConfigDict, folder: Path) -> pathlib.Path:
    """Returns the local folder for shards and caches, which are mapped into memory."""
    data = config.get("data")
    directory = data.get("directory") if isinstance(data, ml_collections.ConfigDict) else None
    if not isinstance(directory, str):  # `settings.check_and_copy_inputs` reports this mistake
        directory = ""
    if is_address(directory):
        raise InputError(
            f"config.data.directory is {directory!r}: it must be a folder of this machine, since "
            "its files are mapped into memory."
        )
    if directory:
        directory = pathlib.Path(directory).absolute()
        check_workdir(directory, "config.data.directory")
        return directory
    return (cache_folder() if is_address(folder) else folder) / "data"


def _begin(
    config: ml_collections.ConfigDict,
    folder: Path,
    data_directory: pathlib.Path,
    as_given: dict,
    inputs: Mapping[str, str | tuple[str, ...]],
) -> Experiment:
    """Reads the data, and records config and inputs in the working directory."""
    with parallel.first_process_first():
        dataset = builder.build(config.data, data_directory)
    corpus = pipeline.load_corpus(dataset, config.data)
    logger.info("Movies: %s.", ", ".join(f"{len(v)} {k}" for k, v in corpus.split.items()))
    _require_movies(config, corpus)
    logger.info("%s", estimate.training_time(config, _training_movies(config, corpus)))
    # Recorded after the data is read: until then another config may use the working directory.
    movies = {"movies": dataset.builder_config.name}
    workdir.claim(folder, as_given, movies | workdir.hash_inputs(inputs))
    experiment = Experiment(
        config,
        folder,
        corpus,
        _assign_folds(config, corpus),
        data_directory / "cache" / dataset.builder_config.name,
        kernels.auto(),
    )
    frequencies = dict(zip(corpus.genres, experiment.frequencies.tolist()))
    write_text(folder / "genre_frequencies.json", json.dumps(frequencies, indent=2))
    return experiment


def _training_movies(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> dict[str, int]:
    """Counts the training movies that have the modality of each encoder."""
    rows = corpus.split["train"]
    return {
        name: int(registry.present(corpus, config, name)[rows].sum()) for name in config.encoders
    }


def _require_movies(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> None:
    """Raises `InputError` if an encoder has too few movies with its modality."""
    presence = {name: registry.present(corpus, config, name) for name in config.encoders}
    train = corpus.split["train"]
    if without := [name for name, present in presence.items() if not present[train].any()]:
        raise InputError(_without_movies(config, without))
    for name, present in presence.items():
        if (found := int(present[train].sum())) < config.folds:
            raise InputError(
                f"{name}: {found} of the training movies have a {registry.modality(config, name)}; "
                f"at least {config.folds} are needed, one for each fold. Leave it out of "
                "config.encoders and config.fusion.encoders, or give more movies."
            )


def _without_movies(config: ml_collections.ConfigDict, without: Sequence[str]) -> str:
    """Says what encoders without any training movie need, and how to leave them out."""
    what = " or a ".join(dict.fromkeys(registry.modality(config, name) for name in without))
    problem = (
        f"No training movie has a {what}, which {', '.join(without)} "
        f"need{'s' if len(without) == 1 else ''}."
    )
    kept = tuple(name for name in config.encoders if name not in without)
    if not kept:
        return f"{problem} Give movies that have it, or name other encoders in config.encoders."
    advice = f'{problem} Leave it out: --config.encoders="{kept}"'
    if not set(without) & set(config.fusion.encoders):
        return advice
    fused = tuple(name for name in config.fusion.encoders if name not in without)
    return f'{advice} --config.fusion.encoders="{fused or kept}"'


def _assign_folds(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> np.ndarray:
    """Assigns training movies to folds: <int64>[movies of the corpus], -1 for other movies."""
    folds = np.full(len(corpus.ids), -1)
    rows = corpus.split["train"]
    strata = np.column_stack([corpus.labels, corpus.has_plot, corpus.has_poster])[rows]
    folds[rows] = splits.assign_folds(
        strata, config.folds, config.data.split_seed, corpus.groups[rows]
    )
    return folds


def _train(experiment: Experiment) -> tuple[dict[str, Arrays], Arrays]:
    """Trains all encoders, then all fusions.

    Returns:
      The arrays of each encoder and fusion, by its name, such as `probabilities` <float32>[movies
      of the corpus, genres]; and whether each movie has a modality that it uses, <bool>[movies of
      the corpus], by its name.
    """
    config, corpus = experiment.config, experiment.corpus
    present = {name: registry.present(corpus, config, name) for name in config.encoders}
    arrays = {}
    for name in config.encoders:
        fit = functools.partial(_fit_encoder, experiment, name, present[name])
        arrays[name] = _load_or_compute(experiment, name, fit)
    probabilities = _probabilities(arrays)
    for name in fusion.names(config):
        module = joint if fusion.kind_of(config, name) == fusion.JOINT else fusion
        fit = functools.partial(module.fit, experiment, name, probabilities, present)
        arrays[name] = _load_or_compute(experiment, name, fit)
        present[name] = np.any([present[encoder] for encoder in config.fusion.encoders], axis=0)
    return arrays, present


def _fit_encoder(experiment: Experiment, name: str, present: np.ndarray) -> Arrays:
    """Trains an encoder on all folds; see `cross_fit`."""
    recipe = registry.of(experiment.config, name).prepare(experiment, name)
    return cross_fit(experiment, name, name, present, recipe)


def _load_or_compute(experiment: Experiment, name: str, compute: Callable[[], Arrays]) -> Arrays:
    """Loads the arrays of an encoder or fusion, or trains it and saves them."""
    preemption.raise_if_requested()
    file = experiment.workdir / "predictions" / f"{name}.npz"
    if (arrays := workdir.load_arrays(file)) is not None:
        logger.info("%s: already finished.", name)
        return arrays
    logger.info("%s: starting.", name)
    arrays = compute()
    workdir.save_arrays(file, arrays)
    return arrays


def _probabilities(arrays: dict[str, Arrays]) -> Arrays:
    """Returns the probabilities of each encoder and fusion."""
    return {name: own["probabilities"] for name, own in arrays.items()}


def _report(experiment: Experiment, arrays: dict[str, Arrays], present: Arrays) -> dict:
    """Calibrates all models, computes their figures, and writes the report."""
    config, corpus, folder = experiment.config, experiment.corpus, experiment.workdir
    preemption.raise_if_requested()
    probabilities, fused = _probabilities(arrays), config.fusion.encoders
    calibrations = results.calibrate(corpus, probabilities, present)
    calibration.save(folder / "calibration.json", calibrations)
    folds = experiment.folds
    calibrated = results.cross_calibrate(corpus, folds, probabilities, present, calibrations)
    judged = saved.of_experiment(corpus, folds, present, fused, calibrated, calibrations)
    saved.save(folder / saved.FILE, judged)
    gallery.save(folder, corpus, judged, saved.shown_split(corpus.split))
    best = _best_reachable(config, corpus)
    figures = results.evaluate_models(
        corpus, folds, probabilities, present, fused, calibrated, best
    )
    missing = results.evaluate_missing(
        corpus,
        folds,
        probabilities,
        _without_modality(config, arrays),
        present,
        fused,
        config.data.split_seed,
    )
    return report.write(
        folder,
        figures,
        missing,
        corpus,
        folds,
        probabilities,
        present,
        fused,
        calibrated,
        fusion.titles(config),
        _notes(config, folder),
        registry.foreign_modules(config),
    )


def _without_modality(
    config: ml_collections.ConfigDict, arrays: dict[str, Arrays]
) -> dict[str, Arrays]:
    """Returns the probabilities of encoders and fusions without a modality, by modality.

    The encoders of the other modality keep their probabilities. A modality is left out of the
    result if no fused encoder uses it, or if all do.
    """
    without = {}
    for modality in MODALITIES:
        key = f"without_{modality}"
        if key not in arrays[fusion.FUSION]:
            continue
        others = [n for n in config.fusion.encoders if registry.modality(config, n) != modality]
        without[modality] = {name: arrays[name]["probabilities"] for name in others}
        without[modality] |= {name: arrays[name][key] for name in fusion.names(config)}
    return without


def _best_reachable(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> Arrays:
    """Computes the true probabilities given the modalities of each encoder and fusion.

    They are known for synthetic movies only, and are the best predictions that a model can make.

    Returns:
      <float64>[movies of the corpus, genres] by name; empty for other sources of movies.
    """
    if config.data.source != "synthetic":
        return {}
    cues_of_movie = {
        movie.id: cues
        for split in synthetic.generate(**config.data.synthetic).values()
        for movie, cues in split
    }
    modalities = {name: {registry.modality(config, name)} for name in config.encoders}
    modalities |= dict.fromkeys(fusion.names(config), registry.fused_modalities(config))
    return {
        name: np.stack([synthetic.true_probabilities(cues_of_movie[i], used) for i in corpus.ids])
        for name, used in modalities.items()
    }


def _notes(config: ml_collections.ConfigDict, folder: Path) -> list[str]:
    """Collects the sentences of encoders that are printed below the tables."""
    lines = []
    for name in config.encoders:
        kind = registry.of(config, name)
        lines += kind.notes(folder, name) if hasattr(kind, "notes") else []
    return list(dict.fromkeys(lines))


@contextlib.contextmanager
def _reporting_full_disk(folder: Path) -> Iterator[None]:
    """Turns errors of a full disk into an `InputError` that says what to do."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or (reason := disk_error(error)) is None:
            raise
        raise InputError(
            f"{reason}: nothing more can be written to {folder} or config.data.directory. Finished "
            "work is saved. Free some space and run the same command again."
        ) from error
