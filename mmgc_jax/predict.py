"""Uses what an experiment left behind.

One row of probabilities for each movie of a table:

    python -m mmgc_jax.predict --workdir=runs/talk --movies=movies.csv --posters=FOLDER \
        --output=probs.csv

One movie, to be read:

    python -m mmgc_jax.predict --workdir=runs/talk --plot="a retired spy ..." --poster=x.jpg
"""

import csv
import functools
import itertools
import json
import logging
import pathlib
import sys
from collections.abc import Iterable, Sequence

import jax
import ml_collections
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

from mmgc_jax import checkpoints, encoders, evaluate, train
from mmgc_jax.data import movies, pipeline, posters, text
from mmgc_jax.data.movies import Movie
from mmgc_jax.errors import InputError
from mmgc_jax.files import write_beside
from mmgc_jax.models import LateFusion

logger = logging.getLogger("mmgc_jax")

_MOVIES_AT_ONCE = 256
_MOVIES_IN_BATCH = 32
_SHOWN = 8


class Predictor:
    """Genre probabilities of new movies, from a finished experiment.

    A modality that a movie lacks, or whose poster cannot be read, counts as saying how frequent
    each genre is; a movie that has nothing for a stage gets just these frequencies.

    Attributes:
      genres: the names of the columns of what it returns, in alphabetical order.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        vocabulary: text.Vocabulary | None,
        frequencies: dict[str, float],
    ):
        """Loads nothing yet; see `load`."""
        self._config = config
        self._workdir = workdir
        self._vocabulary = vocabulary
        self.genres = tuple(frequencies)
        self._frequencies = np.array(list(frequencies.values()), np.float32)

    @classmethod
    def load(cls, workdir) -> "Predictor":
        """Opens the working directory of a finished experiment.

        Raises:
          InputError: if there is none.
        """
        workdir = pathlib.Path(workdir).absolute()
        if not (workdir / "config.json").is_file():
            raise InputError(f"{workdir} is not the working directory of an experiment.")
        if not (workdir / "predictions" / "fusion.npz").is_file():
            raise InputError(
                f"The experiment in {workdir} has not finished; run mmgc_jax.main again with the "
                "same --config and --workdir."
            )
        config = ml_collections.ConfigDict(json.loads((workdir / "config.json").read_text()))
        vocabulary = None
        if "plot" in config.encoders:
            vocabulary = text.Vocabulary.load(workdir / "vocabulary.json")
        frequencies = json.loads((workdir / "genre_frequencies.json").read_text())
        return cls(config, workdir, vocabulary, frequencies)

    def __call__(self, movies: Sequence[Movie], stage: str = "fusion") -> np.ndarray:
        """Predicts.

        Args:
          movies: with plot, poster, both or neither; genres are not looked at.
          stage: `plot`, `poster`, `poster_grey` or `fusion`.

        Returns:
          <float32>[movies, genres], in the order of `genres`.

        Raises:
          InputError: if the experiment has no such stage.
        """
        possible = (*self._config.encoders, "fusion")
        if stage not in possible:
            raise InputError(f"stage is {stage!r}; this experiment has: {', '.join(possible)}.")
        if stage != "fusion":
            return self._encode(movies, stage)[0]
        encoded = [self._encode(movies, encoder) for encoder in self._config.fusion.encoders]
        scores, present = (np.stack(arrays, axis=1) for arrays in zip(*encoded))
        examples = pipeline.ArrayExamples(
            {"probabilities": scores, "present": present.astype(np.float32)}
        )
        return self._run("fusion", examples, present.any(axis=1))

    def _encode(self, movies: Sequence[Movie], stage: str) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities <float32>[movies, genres] of one encoder, and which movies it looked at."""
        if encoders.MODALITY[stage] == "plot":
            settings = self._config.plot
            tokens = [text.TOKENIZERS[settings.tokens](movie.plot or "") for movie in movies]
            present = np.array([bool((movie.plot or "").strip()) for movie in movies])
            examples = pipeline.PlotExamples(
                [self._vocabulary.encode(plot, settings.max_length) for plot in tokens],
                settings.bucket,
            )
        else:
            images = [self._decode(movie) for movie in movies]
            present = np.array([image is not None for image in images])
            missing = np.zeros(self._poster_shape, np.uint8)
            pixels = np.stack([missing if image is None else image for image in images])
            examples = pipeline.ArrayExamples({"images": pixels})
        return self._run(stage, examples, present), present

    @property
    def _poster_shape(self) -> tuple[int, int, int]:
        return self._config.data.poster_height, self._config.data.poster_width, 3

    def _decode(self, movie: Movie) -> np.ndarray | None:
        if movie.poster is None:
            return None
        height, width, _ = self._poster_shape
        try:
            # Through JPEG, as the posters that the encoder was trained on.
            pixels = posters.decode(movie.poster, height, width)
            return posters.decode(posters.encode_jpeg(pixels), height, width)
        except posters.PosterError as error:
            logger.warning("Unreadable poster, treated as missing: %s: %s", movie.id, error)
            return None

    def _run(self, stage: str, examples, present: np.ndarray) -> np.ndarray:
        apply, params = self._model(stage)
        scores = np.zeros((len(present), len(self.genres)), np.float32)
        if present.any():
            rows = np.flatnonzero(present)
            batches = pipeline.Batches(examples, np.zeros_like(scores), rows, self._batch_size)
            scores = evaluate.probabilities(apply, params, batches)
        return evaluate.fill_absent(scores, present, self._frequencies)

    @property
    def _batch_size(self) -> int:
        """A multiple of the number of devices."""
        return -(-_MOVIES_IN_BATCH // jax.device_count()) * jax.device_count()

    @functools.cache  # noqa: B019 (a predictor lives as long as its process)
    def _model(self, stage: str):
        """The function and the parameters of a stage."""
        config = self._config
        if stage == "fusion":
            params = self._best("fusion")
            apply = train.make_apply(
                LateFusion(num_genres=len(self.genres), **config.fusion.model),
                ("probabilities", "present"),
            )
            return apply, params
        if stage == "plot":
            params = self._best("plot")
            size = params["words"]["embedding"].shape[1] if "words" in params else None
            model = encoders.plot_model(config, len(self.genres), len(self._vocabulary), size)
            return train.make_apply(model, ("tokens", "lengths")), params
        head_alone = config.poster.finetune_from == "head"
        params = self._best(f"{stage}/head" if head_alone else stage)
        frozen = checkpoints.restore(self._workdir / "checkpoints" / stage / "frozen")
        if frozen is not None:
            params = params | {"vgg16": params.get("vgg16", {}) | frozen[0]["vgg16"]}
        model = encoders.poster_model(config, len(self.genres), grey=stage == "poster_grey")
        return train.make_apply(model, ("images",)), params

    def _best(self, name: str):
        return train.restore_best(train.Run(name, self._workdir, seed=0))


def predict_table(
    predictor: Predictor, rows: Iterable[Movie], output: pathlib.Path, stage: str
) -> int:
    """Writes `ID,p_Action,...`, a row for each movie in the order given; returns their number."""
    written = 0

    def write(beside: pathlib.Path) -> None:
        nonlocal written
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["ID", *(f"p_{genre}" for genre in predictor.genres)])
            while chunk := list(itertools.islice(iterator, _MOVIES_AT_ONCE)):
                for movie, scores in zip(chunk, predictor(chunk, stage)):
                    writer.writerow([movie.id, *(f"{score:.6f}" for score in scores)])
                written += len(chunk)
                bar.update(len(chunk))

    iterator = iter(rows)
    with tqdm(desc="predicting", unit="movie", disable=None) as bar:
        try:
            write_beside(output, write)
        except OSError as error:
            raise InputError(f"--output={output} cannot be written: {error}") from error
    return written


def describe(scores: np.ndarray, genres: Sequence[str]) -> str:
    """The likeliest of the genres as lines of text, a bar for each."""
    lines = []
    for genre in np.argsort(-scores)[:_SHOWN]:
        bar = "█" * round(float(scores[genre]) * 40)
        lines.append(f"{genres[genre]:<12}{scores[genre]:>6.1%}  {bar}")
    return "\n".join(lines)


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Of a finished experiment.", required=True)
    flags.DEFINE_string("movies", None, "CSV file with the columns index,year,title,plot.")
    flags.DEFINE_string("posters", None, "Folder of <index>.jpg files.")
    flags.DEFINE_string("output", None, "CSV file to write: ID,p_Action,p_Adventure,...")
    flags.DEFINE_string("plot", None, "The plot of one movie.")
    flags.DEFINE_string("poster", None, "The poster of one movie, an image file.")
    flags.DEFINE_enum("stage", "fusion", [*encoders.MODALITY, "fusion"], "The model that predicts.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        _predict(flags.FLAGS)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _predict(values: flags.FlagValues) -> None:
    one, many = values.plot or values.poster, values.movies or values.posters
    if bool(one) == bool(many):
        raise InputError("Give --plot, --poster or both for one movie, or --movies for a table.")
    if many and not (values.movies and values.output):
        raise InputError("A table needs --movies=FILE.csv and --output=FILE.csv.")
    predictor = Predictor.load(values.workdir)
    if many:
        table = movies.read_csv(values.movies, values.posters)
        output = pathlib.Path(values.output)
        count = predict_table(predictor, table, output, values.stage)
        print(f"{count} rows written to {output}")
        return
    poster = None
    if values.poster:
        try:
            poster = pathlib.Path(values.poster).read_bytes()
            posters.decode(poster, 32, 32)
        except (OSError, posters.PosterError) as error:
            raise InputError(f"--poster={values.poster} cannot be read: {error}") from error
    movie = Movie(id="", title="", plot=values.plot or None, poster=poster)
    print(describe(predictor([movie], values.stage)[0], predictor.genres))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
