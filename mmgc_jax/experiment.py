"""The story of an experiment, in order: data, encoders, fusion, report.

Each part leaves its result in the working directory. Run again, the experiment passes over what is
finished and continues with what is not.
"""

import contextlib
import functools
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping

import ml_collections
import numpy as np

from mmgc_jax import settings
from mmgc_jax.data import builder, pipeline, splits, synthetic
from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import MODALITIES
from mmgc_jax.evaluation import calibration, report, results
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


def run(config: ml_collections.ConfigDict, folder) -> dict:
    """Runs a whole experiment, or what is left of it.

    Args:
      config: as of `configs/default.py`, and a section for each encoder.
      folder: the working directory, made if it is not there; it may be in a bucket, `gs://...`.

    Returns:
      The content of `results.json`.

    Raises:
      InputError: if the config, the data, the weights or the working directory are not usable, or
        the disk is full.
      Interrupted: if the process was asked to stop.
    """
    folder = as_path(folder)
    check_workdir(folder)
    config = settings.without_unused(config)
    if is_address(folder) and config.get("tensorboard"):
        raise InputError(
            f"config.tensorboard is True, but its files cannot be written to {folder}; "
            "metrics.jsonl has the same figures."
        )
    as_given = settings.as_json(config)
    workdir.check_unchanged(folder, as_given)
    data_directory = _data_directory(config, folder)
    with _reporting_full_disk(folder), parallel.first_process_first():
        config, inputs = settings.checked(config, data_directory / "copies")
    with (
        _reporting_full_disk(folder),
        exclusive(folder),
        workdir.logging_to(folder / "run.log"),
    ):
        try:
            experiment = _begin(config, folder, data_directory, as_given, inputs)
            arrays, present = _train(experiment)
            return _report(experiment, arrays, present)
        finally:
            flush_lines()


def _data_directory(config: ml_collections.ConfigDict, folder: Path) -> pathlib.Path:
    """Where shards, and what else is mapped into memory, lie on this machine."""
    data = config.get("data")
    directory = data.get("directory") if isinstance(data, ml_collections.ConfigDict) else None
    if not isinstance(directory, str):  # `settings.checked` reports it
        directory = ""
    if is_address(directory):
        raise InputError(
            f"config.data.directory is {directory!r}: what it holds is mapped into memory, so it "
            "must be a folder of this machine."
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
    """Reads the data, and claims the working directory for this config and these inputs."""
    with parallel.first_process_first():
        dataset = builder.build(config.data, data_directory)
    corpus = pipeline.load_corpus(dataset, config.data)
    logger.info("Movies: %s.", ", ".join(f"{len(v)} {k}" for k, v in corpus.split.items()))
    _require_movies(config, corpus)
    # After the data is read, so that a first try that fails binds nobody.
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


def _require_movies(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> None:
    for name in config.encoders:
        present = registry.present(corpus, config, name)
        for split, least in (("train", config.folds), ("validation", 1)):
            if (found := int(present[corpus.split[split]].sum())) < least:
                raise InputError(
                    f"{name}: {found} movies of the {split} part have a "
                    f"{registry.modality(config, name)}; at least {least} are needed."
                )


def _assign_folds(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> np.ndarray:
    """The fold of each training movie, <int64>[movies of the corpus]; -1 for the other movies."""
    folds = np.full(len(corpus.ids), -1)
    rows = corpus.split["train"]
    strata = np.column_stack([corpus.labels, corpus.has_plot, corpus.has_poster])[rows]
    folds[rows] = splits.assign_folds(strata, config.folds, config.data.split_seed)
    return folds


def _train(experiment: Experiment) -> tuple[dict[str, Arrays], Arrays]:
    """Trains encoders, then fusions.

    Returns:
      For each of them its arrays, `probabilities` among them; and whether a movie has what it
      looks at, <bool>[movies of the corpus].
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
    recipe = registry.of(experiment.config, name).prepare(experiment, name)
    return cross_fit(experiment, name, name, present, recipe)


def _load_or_compute(experiment: Experiment, name: str, compute: Callable[[], Arrays]) -> Arrays:
    """The arrays that the training of an encoder or fusion ends with; read if it has finished."""
    preemption.raise_if_requested()
    file = experiment.workdir / "predictions" / f"{name}.npz"
    if (arrays := workdir.load_arrays(file)) is not None:
        logger.info("%s: finished before.", name)
        return arrays
    logger.info("%s: begins.", name)
    arrays = compute()
    workdir.save_arrays(file, arrays)
    return arrays


def _probabilities(arrays: dict[str, Arrays]) -> Arrays:
    return {name: of_one["probabilities"] for name, of_one in arrays.items()}


def _report(experiment: Experiment, arrays: dict[str, Arrays], present: Arrays) -> dict:
    """Calibrates, computes all figures, and writes the report."""
    config, corpus, folder = experiment.config, experiment.corpus, experiment.workdir
    preemption.raise_if_requested()
    probabilities, fused = _probabilities(arrays), config.fusion.encoders
    calibrations = results.calibrate(corpus, probabilities, present)
    calibration.save(folder / "calibration.json", calibrations)
    figures = results.evaluate_models(
        corpus,
        experiment.folds,
        probabilities,
        present,
        fused,
        calibrations,
        _best_reachable(config, corpus),
    )
    missing = results.evaluate_missing(
        corpus,
        experiment.folds,
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
        probabilities,
        present,
        fused,
        calibrations,
        fusion.titles(config),
        _notes(config, folder),
    )


def _without_modality(
    config: ml_collections.ConfigDict, arrays: dict[str, Arrays]
) -> dict[str, Arrays]:
    """For each modality that can be lost, probabilities without it: of encoders and of fusions.

    Those of encoders that look at the other modality do not change.
    """
    without = {}
    for modality in MODALITIES:
        key = f"without_{modality}"
        if key not in arrays[fusion.FUSION]:
            continue
        spared = [n for n in config.fusion.encoders if registry.modality(config, n) != modality]
        without[modality] = {name: arrays[name]["probabilities"] for name in spared}
        without[modality] |= {name: arrays[name][key] for name in fusion.names(config)}
    return without


def _best_reachable(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> Arrays:
    """The true probabilities by encoder and fusion, <float64>[movies, genres], if synthetic."""
    if config.data.source != "synthetic":
        return {}
    cues = {
        movie.id: seen
        for split in synthetic.generate(**config.data.synthetic).values()
        for movie, seen in split
    }
    modalities = {name: {registry.modality(config, name)} for name in config.encoders}
    fused = {registry.modality(config, name) for name in config.fusion.encoders}
    modalities |= dict.fromkeys(fusion.names(config), fused)
    return {
        name: np.stack([synthetic.true_probabilities(cues[i], looks_at) for i in corpus.ids])
        for name, looks_at in modalities.items()
    }


def _notes(config: ml_collections.ConfigDict, folder: Path) -> list[str]:
    """The lines of encoders that have some to stand above the tables."""
    lines = []
    for name in config.encoders:
        kind = registry.of(config, name)
        lines += kind.notes(folder, name) if hasattr(kind, "notes") else []
    return list(dict.fromkeys(lines))


@contextlib.contextmanager
def _reporting_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or (reason := disk_error(error)) is None:
            raise
        raise InputError(
            f"{reason}: {folder} or config.data.directory takes no more. What was written before "
            "is kept; make room and run the same again."
        ) from error
