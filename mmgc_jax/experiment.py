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
import ml_collections
import numpy as np

from mmgc_jax import encoders, evaluate, report, train
from mmgc_jax.data import builder, movies, pipeline, splits, synthetic
from mmgc_jax.errors import InputError
from mmgc_jax.files import write_beside, write_text
from mmgc_jax.models import LateFusion
from mmgc_jax.models.fusion import drop_modalities
from mmgc_jax.pretrained import vgg16

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
    check(config)
    claim(workdir, config)
    with _log_to(workdir / "run.log"):
        return _run_stages(config, workdir)


def _run_stages(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
    data_directory = pathlib.Path(config.data.directory or workdir / "data").absolute()
    dataset = builder.build(config.data, data_directory)
    corpus = pipeline.load_corpus(dataset, config.data)
    logger.info("Movies: %s.", ", ".join(f"{len(v)} {k}" for k, v in corpus.split.items()))

    present = {stage: encoders.present_for(corpus, stage) for stage in config.encoders}
    for stage, there in present.items():
        for split in ("train", "validation"):
            if not there[corpus.split[split]].any():
                raise InputError(
                    f"No movie of the {split} part has a {encoders.MODALITY[stage]}, but "
                    f"config.encoders has {stage!r}."
                )
    folds = assign_folds(config, corpus)
    stages = {}
    for stage in config.encoders:
        if stage == "plot":
            compute = functools.partial(encoders.train_plot, config, workdir, corpus, folds)
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
    )
    return report.write(workdir, results, corpus, stages, present, best_reachable(config, corpus))


def check(config: ml_collections.ConfigDict) -> None:
    """Finds mistakes in a config before anything is computed.

    Raises:
      InputError: if a value is not one of those possible, or a file that it names is not usable.
    """

    def one_of(name, value, values):
        if value not in values:
            raise InputError(f"config.{name} is {value!r}; possible: {', '.join(values)}.")

    for stage in config.encoders:
        one_of("encoders", stage, encoders.MODALITY)
    for stage in config.fusion.encoders:
        one_of("fusion.encoders", stage, config.encoders)
    one_of("plot.vectorisation", config.plot.vectorisation, ("word2vec", "unique_map"))
    one_of("plot.model.pooling", config.plot.model.pooling, ("last", "mean", "max", "mean_max"))
    one_of(
        "poster.model.pooling", config.poster.model.pooling, ("flatten", "mean", "max", "mean_max")
    )
    one_of("poster.finetune_from", config.poster.finetune_from, encoders.FIRST_BLOCK)
    one_of("poster.dtype", config.poster.dtype, ("float32", "bfloat16"))
    if not config.fusion.encoders:
        raise InputError("config.fusion.encoders is empty; name at least one of config.encoders.")
    if config.fusion.folds < 2:
        raise InputError(f"config.fusion.folds is {config.fusion.folds}; at least 2 are needed.")
    for name in ("poster_height", "poster_width"):
        if config.data[name] < 32 or config.data[name] % 32:
            raise InputError(
                f"config.data.{name} is {config.data[name]}; a multiple of 32 is needed."
            )
    devices = jax.device_count()
    for stage in ("plot", "poster", "fusion"):
        if config[stage].training.batch_size % devices:
            raise InputError(
                f"config.{stage}.training.batch_size is {config[stage].training.batch_size}; it "
                f"must be a multiple of the number of devices, {devices}."
            )
    if any(stage.startswith("poster") for stage in config.encoders):
        if config.poster.weights:
            vgg16.load(
                config.poster.weights,
                widths=config.poster.model.widths,
                depths=config.poster.model.depths,
            )
        elif config.poster.finetune_from != "block1":
            raise InputError(
                "config.poster.weights is empty, and config.poster.finetune_from is "
                f"{config.poster.finetune_from!r}: blocks below it would stay random. Give "
                "--config.poster.weights=FILE.npz, or --config.poster.finetune_from=block1."
            )
    if "plot" in config.encoders and config.plot.vectorisation == "word2vec":
        vectors = config.plot.vectors
        if not vectors.file and not vectors.train:
            raise InputError("config.plot.vectors has no file and train=False: no word vectors.")
        for file in (*((vectors.file,) if vectors.file else ()), *vectors.unlabelled):
            if not pathlib.Path(file).is_file():
                raise InputError(f"config.plot.vectors: {file}: no such file.")


@contextlib.contextmanager
def _log_to(file: pathlib.Path) -> Iterator[None]:
    """Adds what this package logs to a file."""
    package = logging.getLogger("mmgc_jax")
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


def claim(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the config into the working directory, or checks that it is the one there.

    Raises:
      InputError: if the folder cannot be written to, or was made with another config.
    """
    file = workdir / "config.json"
    wanted = json.loads(config.to_json())
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{file} is not JSON: {error}. Choose another --workdir.") from error
        differing = [
            f"config.{name}: {_flat(found).get(name)!r} there, {_flat(wanted).get(name)!r} now"
            for name in sorted(_flat(found).keys() | _flat(wanted).keys())
            # The number of workers changes nothing but the speed.
            if _flat(found).get(name) != _flat(wanted).get(name) and name != "data.workers"
        ]
        if differing:
            raise InputError(
                f"{workdir} was made with another config. Choose another --workdir, or undo:\n  "
                + "\n  ".join(differing)
            )
        return
    try:
        write_text(file, json.dumps(wanted, indent=2))
    except OSError as error:
        raise InputError(f"--workdir={workdir} cannot be written to: {error}") from error


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


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
        json.dumps(dict(zip(movies.GENRES, frequencies.tolist())), indent=2),
    )
    available = np.stack([present[stage] for stage in settings.encoders], axis=1)
    some = available.any(axis=1)

    def examples(kind):
        stacked = np.stack([stages[stage][kind] for stage in settings.encoders], axis=1)
        return pipeline.ArrayExamples(
            {"probabilities": stacked, "present": available.astype(np.float32)}
        )

    def augment(key, batch):
        probabilities, there = drop_modalities(
            key, batch["probabilities"], batch["present"], frequencies, settings.modality_dropout
        )
        return batch | {"probabilities": probabilities, "present": there}

    model = LateFusion(**settings.model)
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
