"""The story of an experiment, in order: data, words, plot, poster, fusion, report.

Each stage leaves its result in the working directory. Run again, the experiment passes over what is
finished and goes on with what is not.
"""

import contextlib
import functools
import json
import logging
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mmgc_jax import check, encoders, evaluate, report, train
from mmgc_jax.data import builder, pipeline, splits, synthetic
from mmgc_jax.errors import InputError
from mmgc_jax.files import write_beside, write_text
from mmgc_jax.models import LateFusion
from mmgc_jax.models.fusion import drop_modalities

logger = logging.getLogger(__name__)


def run(config: ml_collections.ConfigDict, workdir) -> dict:
    """Runs a whole experiment, or what is left of it.

    Args:
      config: as of `configs/default.py`.
      workdir: a folder, made if it is not there.

    Returns:
      The content of `results.json`.

    Raises:
      InputError: if the config, the data, the weights or the working directory are not usable.
    """
    workdir = pathlib.Path(workdir).absolute()
    check.config_is_possible(config)
    check.same_as_before(workdir / "config.json", check.as_json(config))
    with _log_to(workdir / "run.log"):
        return _run_stages(config, workdir)


def _run_stages(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
    data_directory = pathlib.Path(config.data.directory or workdir / "data").absolute()
    dataset = builder.build(config.data, data_directory)
    corpus = pipeline.load_corpus(dataset, config.data)
    logger.info("Movies: %s.", ", ".join(f"{len(v)} {k}" for k, v in corpus.split.items()))

    present = {stage: encoders.present_for(corpus, stage) for stage in config.encoders}
    for stage, there in present.items():
        for split, least in (("train", config.fusion.folds), ("validation", 1)):
            if (found := int(there[corpus.split[split]].sum())) < least:
                raise InputError(
                    f"{stage}: {found} movies of the {split} part have a "
                    f"{encoders.MODALITY[stage]}; at least {least} are needed."
                )
    check.claim(workdir, config, dataset.builder_config.name)
    folds = assign_folds(config, corpus)
    stages = {}
    for stage in config.encoders:
        if stage == "plot":
            cache = data_directory / "word_vectors"
            compute = functools.partial(encoders.train_plot, config, workdir, corpus, folds, cache)
        else:
            cache = data_directory / "activations" / dataset.builder_config.name
            compute = functools.partial(
                encoders.train_poster, config, workdir, corpus, folds, stage, cache
            )
        stages[stage] = once(workdir, stage, compute)
    stages["fusion"] = once(
        workdir, "fusion", lambda: train_fusion(config, workdir, corpus, stages, present)
    )
    present["fusion"] = np.any([present[stage] for stage in config.fusion.encoders], axis=0)

    results = evaluate.evaluate_stages(
        corpus.labels,
        {stage: arrays["probabilities"] for stage, arrays in stages.items()},
        present,
        {split: indices for split, indices in corpus.split.items() if split != "train"},
        config.fusion.encoders,
        corpus.genres,
    )
    return report.write(workdir, results, corpus, stages, present, best_reachable(config, corpus))


@contextlib.contextmanager
def _log_to(file: pathlib.Path) -> Iterator[None]:
    """Adds what this package logs to a file."""
    package = logging.getLogger("mmgc_jax")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--workdir={file.parent} cannot be written to: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


def once(workdir: pathlib.Path, stage: str, compute) -> dict[str, np.ndarray]:
    """The arrays that a stage ends with: read if it is finished, otherwise computed and kept."""
    file = workdir / "predictions" / f"{stage}.npz"
    if file.exists():
        logger.info("%s: finished before.", stage)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    logger.info("%s: begins.", stage)
    arrays = compute()
    write_beside(file, lambda beside: np.savez_compressed(beside, **arrays))
    return arrays


def assign_folds(config: ml_collections.ConfigDict, corpus: pipeline.Corpus) -> np.ndarray:
    """The fold of each training movie, <int64>[movies of the corpus]; -1 for the other movies."""
    folds = np.full(len(corpus.ids), -1)
    rows = corpus.split["train"]
    strata = np.column_stack([corpus.labels, corpus.has_plot, corpus.has_poster])[rows]
    folds[rows] = splits.assign_folds(strata, config.fusion.folds, config.data.split_seed)
    return folds


def train_fusion(config, workdir, corpus, stages, present) -> dict[str, np.ndarray]:
    """Trains the fusion on out-of-fold probabilities; applies it to those of the full encoders."""
    settings = config.fusion
    frequencies = encoders.genre_frequencies(corpus)
    write_text(
        workdir / "genre_frequencies.json",
        json.dumps(dict(zip(corpus.genres, frequencies.tolist())), indent=2),
    )
    available = np.stack([present[stage] for stage in settings.encoders], axis=1)
    modalities = [encoders.MODALITY[stage] for stage in settings.encoders]
    some = available.any(axis=1)

    def examples(kind):
        stacked = np.stack([stages[stage][kind] for stage in settings.encoders], axis=1)
        return pipeline.ArrayExamples(
            {"probabilities": stacked, "present": available.astype(np.float32)}
        )

    def augment(key, batch):
        there = drop_modalities(key, batch["present"], modalities, settings.modality_dropout)
        probabilities = jnp.where(there[..., None] > 0, batch["probabilities"], frequencies)
        return batch | {"probabilities": probabilities, "present": there}

    model = LateFusion(num_genres=len(corpus.genres), **settings.model)
    apply = train.make_apply(model, ("probabilities", "present"), augment)
    run = train.Run("fusion", workdir, encoders.seed_of(config, "fusion"))
    params = model.init(
        jax.random.key(run.seed), *(array[:1] for array in examples("out_of_fold").arrays.values())
    )["params"]
    # Each encoder's logits hold the genres' log-odds, which their sum is to hold once.
    params["genres"]["bias"] = (1 - available.shape[1]) * encoders.initial_bias(corpus)
    rows = {split: indices[some[indices]] for split, indices in corpus.split.items()}
    size = settings.training.batch_size

    def predict(params, indices):
        batches = pipeline.Batches(examples("probabilities"), corpus.labels, indices, size)
        return evaluate.probabilities(apply, params, batches)

    def validate(params):
        indices = rows["validation"]
        return evaluate.headline(corpus.labels[indices], predict(params, indices)[indices])

    trained = train.fit(
        run,
        apply,
        params,
        pipeline.Batches(
            examples("out_of_fold"),
            corpus.labels,
            rows["train"],
            size,
            shuffle_seed=run.seed,
            epochs=settings.training.epochs,
        ),
        validate,
        settings.training,
        train.positive_weights(corpus.labels[rows["train"]], settings.training.class_weight),
    )
    probabilities = predict(trained, np.flatnonzero(some))
    return {"probabilities": evaluate.fill_absent(probabilities, some, frequencies)}


def best_reachable(config, corpus) -> dict[str, np.ndarray]:
    """The true probabilities by stage, <float64>[movies, 24], where the corpus is synthetic."""
    if config.data.source != "synthetic":
        return {}
    cues = {
        movie.id: seen
        for split in synthetic.generate(**config.data.synthetic).values()
        for movie, seen in split
    }
    looks_at = {stage: {encoders.MODALITY[stage]} for stage in config.encoders}
    looks_at["fusion"] = {encoders.MODALITY[stage] for stage in config.fusion.encoders}
    return {
        stage: np.stack([synthetic.true_probabilities(cues[i], modalities) for i in corpus.ids])
        for stage, modalities in looks_at.items()
    }
