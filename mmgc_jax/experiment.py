"""The story of an experiment, in order: data, words, plot, poster, fusion, report.

Each stage leaves its result in the working directory. Run again, the experiment passes over what is
finished and goes on with what is not.
"""

import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
from collections.abc import Iterator

import ml_collections
import numpy as np

from mmgc_jax import settings
from mmgc_jax.data import builder, pipeline, splits, synthetic
from mmgc_jax.encoders import fusion, joint, registry
from mmgc_jax.encoders.base import MODALITIES, MODALITY
from mmgc_jax.evaluation import calibration, report, results
from mmgc_jax.pretrained import download
from mmgc_jax.runtime import parallel, preemption, remote
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import (
    Path,
    append_line,
    as_path,
    is_address,
    write_atomically,
    write_text,
)
from mmgc_jax.runtime.locks import exclusive
from mmgc_jax.training.cross_fit import Experiment

logger = logging.getLogger(__name__)

# How the system says that nothing can be written; libraries put it into exceptions of their own.
_CANNOT_WRITE = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]


def run(config: ml_collections.ConfigDict, workdir) -> dict:
    """Runs a whole experiment, or what is left of it.

    Args:
      config: as of `configs/default.py`.
      workdir: a folder, made if it is not there; it may be in a bucket, `gs://...`.

    Returns:
      The content of `results.json`.

    Raises:
      InputError: if the config, the data, the weights or the working directory are not usable, or
        the disk is full.
      Interrupted: if the process was asked to stop.
    """
    workdir = as_path(workdir)
    data_directory = _data_directory(config, workdir)
    as_given = settings.as_json(config)
    with parallel.first_process_first():
        config = remote.copy_inputs(config, data_directory / "copies")
    settings.config_is_possible(config)
    settings.same_as_before(workdir / "config.json", as_given)
    with _full_disk_told(workdir), exclusive(workdir), _log_to(workdir / "run.log"):
        return _run_stages(config, workdir, data_directory, as_given)


def _data_directory(config: ml_collections.ConfigDict, workdir: Path) -> pathlib.Path:
    """Where the shards and all else that is mapped into memory lies, on this machine."""
    if config.data.directory:
        if is_address(config.data.directory):
            raise InputError(
                f"config.data.directory is {config.data.directory!r}: what it holds is mapped into "
                "memory, so it must be a folder of this machine."
            )
        return pathlib.Path(config.data.directory).absolute()
    return (download.cache_folder() if is_address(workdir) else workdir) / "data"


def _run_stages(
    config: ml_collections.ConfigDict, workdir: Path, data_directory: pathlib.Path, as_given: dict
) -> dict:
    with parallel.first_process_first():
        dataset = builder.build(config.data, data_directory)
    corpus = pipeline.load_corpus(dataset, config.data)
    logger.info("Movies: %s.", ", ".join(f"{len(v)} {k}" for k, v in corpus.split.items()))

    present = {stage: registry.present(corpus, stage) for stage in config.encoders}
    for stage, there in present.items():
        for split, least in (("train", config.folds), ("validation", 1)):
            if (found := int(there[corpus.split[split]].sum())) < least:
                raise InputError(
                    f"{stage}: {found} movies of the {split} part have a "
                    f"{MODALITY[stage]}; at least {least} are needed."
                )
    settings.claim(workdir, as_given, dataset.builder_config.name, config.poster.weights)
    cache = data_directory / "cache" / dataset.builder_config.name
    experiment = Experiment(config, workdir, corpus, assign_folds(config, corpus), cache)
    frequencies = dict(zip(corpus.genres, experiment.frequencies.tolist()))
    write_text(workdir / "genre_frequencies.json", json.dumps(frequencies, indent=2))

    arrays = {}
    for stage in config.encoders:
        compute = functools.partial(registry.fit_encoder, experiment, stage)
        arrays[stage] = once(workdir, stage, compute)
    said = {stage: arrays[stage]["probabilities"] for stage in config.encoders}
    for stage in fusion.stages(config):
        fit = joint.fit if fusion.kind_of(config, stage) == fusion.JOINT else fusion.fit
        compute = functools.partial(fit, experiment, stage, said, present)
        arrays[stage] = once(workdir, stage, compute)
        present[stage] = np.any([present[name] for name in config.fusion.encoders], axis=0)

    preemption.raise_if_requested()
    said = {stage: arrays[stage]["probabilities"] for stage in arrays}
    calibrations = calibrate(experiment, said, present)
    calibration.save(workdir / "calibration.json", calibrations)
    results = results.evaluate_stages(
        corpus, experiment.folds, said, present, config.fusion.encoders, calibrations
    )
    missing = try_without(experiment, arrays, present)
    best = best_reachable(config, corpus)
    return report.write(workdir, results, missing, corpus, said, present, calibrations, best)


@contextlib.contextmanager
def _full_disk_told(workdir: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = next((reason for reason in _CANNOT_WRITE if reason in str(error)), None)
        if reason is None or isinstance(error, InputError):
            raise
        raise InputError(
            f"{reason}: {workdir} or config.data.directory takes no more. What was written "
            "before is kept; make room and run the same again."
        ) from error


class _Log(logging.Handler):
    def __init__(self, file: Path):
        super().__init__()
        self._file = file

    def emit(self, record) -> None:
        append_line(self._file, self.format(record))


@contextlib.contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Adds what this package logs to a file."""
    package = logging.getLogger("mmgc_jax")
    handler = _Log(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


def once(workdir: Path, stage: str, compute) -> dict[str, np.ndarray]:
    """The arrays that a stage ends with: read if it is finished, otherwise computed and kept."""
    preemption.raise_if_requested()
    file = workdir / "predictions" / f"{stage}.npz"
    if parallel.broadcast(file.exists()):
        logger.info("%s: finished before.", stage)
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)
    logger.info("%s: begins.", stage)
    arrays = compute()
    write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))
    return arrays


def assign_folds(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> np.ndarray:
    """The fold of each training movie, <int64>[movies of the corpus]; -1 for the other movies."""
    folds = np.full(len(corpus.ids), -1)
    rows = corpus.split["train"]
    strata = np.column_stack([corpus.labels, corpus.has_plot, corpus.has_poster])[rows]
    folds[rows] = splits.assign_folds(strata, config.folds, config.data.split_seed)
    return folds


def calibrate(experiment, probabilities, present) -> dict[str, calibration.Calibration]:
    """Fits each stage's calibration on the training movies, predicted out of fold."""
    corpus = experiment.corpus
    calibrations = {}
    for stage, scores in probabilities.items():
        rows = corpus.split["train"][present[stage][corpus.split["train"]]]
        fit = calibration.Calibration.fit
        calibrations[stage] = fit(corpus.labels[rows], scores[rows], corpus.genres)
    return calibrations


def try_without(experiment, arrays, present) -> dict:
    """What each fusion does when movies with both modalities lose one, out of fold.

    Returns:
      For each modality that can be lost, and each fusion, as `results.missing_modalities`; and
      likewise for the encoders that never look at it, which do not change.
    """
    corpus, config = experiment.corpus, experiment.config
    both = np.all([present[name] for name in config.fusion.encoders], axis=0)
    rows = corpus.split["train"][both[corpus.split["train"]]]
    missing = {}
    for modality in MODALITIES:
        if f"without_{modality}" not in arrays["fusion"]:
            continue
        spared = [name for name in config.fusion.encoders if MODALITY[name] != modality]
        for stage in [*spared, *fusion.stages(config)]:
            whole = arrays[stage]["probabilities"]
            without = whole if stage in spared else arrays[stage][f"without_{modality}"]
            missing.setdefault(modality, {})[stage] = results.missing_modalities(
                corpus.labels[rows],
                experiment.folds[rows],
                whole[rows],
                without[rows],
                config.data.split_seed,
            )
    return missing


def best_reachable(config, corpus) -> dict[str, np.ndarray]:
    """The true probabilities by stage, <float64>[movies, 24], where the corpus is synthetic."""
    if config.data.source != "synthetic":
        return {}
    cues = {
        movie.id: seen
        for split in synthetic.generate(**config.data.synthetic).values()
        for movie, seen in split
    }
    looks_at = {stage: {MODALITY[stage]} for stage in config.encoders}
    fused = {MODALITY[stage] for stage in config.fusion.encoders}
    looks_at |= dict.fromkeys(fusion.stages(config), fused)
    return {
        stage: np.stack([synthetic.true_probabilities(cues[i], modalities) for i in corpus.ids])
        for stage, modalities in looks_at.items()
    }
