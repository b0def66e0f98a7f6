"""Measures how faithful explanations are: deletion and insertion curves against a random order.

    python -m benchmarks.faithfulness --workdir=runs/demo --output=faithfulness.json
    python -m benchmarks.faithfulness --workdir=runs/talk --movies=holdout.csv --posters=FOLDER

For each movie and encoder, the likeliest genre is explained. Words are deleted from the plot, or
regions from the poster, the most important first, and the probability of the genre is averaged over
the curve from nothing deleted to everything: for a faithful explanation it falls fast. Insertion
starts from nothing: the probability rises fast. A random order of the same words or regions is the
baseline (Petsiuk et al., arXiv 1806.07421). A poster has 8 rows of square regions; deleted ones
get the poster's mean colour.

Without --movies, the test movies of the embedded corpus are used, and since it is known what makes
their genres, the share of explanations that find it is measured, too: one of the genre's words
among the first three words, and the centre of the genre's figure in the brightest fifth of the map.
"""

import datetime
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import app, flags, logging
from PIL import Image

from benchmarks import machine
from mmgc_jax import explanations
from mmgc_jax.data import posters, synthetic, table
from mmgc_jax.data.movies import Movie
from mmgc_jax.encoders import registry
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime import memory
from mmgc_jax.runtime.errors import InputError
from mmgc_jax.runtime.files import write_text

_ROWS = 8
_SHARES = np.linspace(0, 1, 9)


def parts_of_plot(movie: Movie, kept: Sequence[np.ndarray]) -> list[Movie]:
    """Returns the movie with some of the words of its plot, `kept` <bool>[words] for each."""
    words = explanations.words_of(movie.plot)
    return [
        Movie(plot=" ".join(word.text for word, keep in zip(words, choice) if keep))
        for choice in kept
    ]


def parts_of_poster(
    pixels: np.ndarray, shape: tuple[int, int], kept: Sequence[np.ndarray]
) -> list[Movie]:
    """Returns movies whose posters have some regions, `kept` <bool>[regions] for each."""
    rows, columns = (
        np.arange(size) * count // size for size, count in zip(pixels.shape[:2], shape)
    )
    region = rows[:, None] * shape[1] + columns
    mean = pixels.mean(axis=(0, 1)).astype(np.uint8)
    pictures = [np.where(choice[region][..., None], pixels, mean) for choice in kept]
    return [Movie(poster=posters.encode_png(Image.fromarray(picture))) for picture in pictures]


def masks(scores: np.ndarray, insertion: bool) -> list[np.ndarray]:
    """Returns which parts are left at each point of a curve, the highest scores first to go."""
    order = np.argsort(-scores, kind="stable")
    result = []
    for share in _SHARES:
        chosen = np.zeros(len(scores), bool)
        chosen[order[: round(share * len(scores))]] = True
        result.append(chosen if insertion else ~chosen)
    return result


def curves(predictor: Predictor, movie: Movie, model: str, rng: np.random.Generator) -> dict | None:
    """Measures the four curves of a movie; None if it has nothing that the model looks at."""
    modality = registry.modality(predictor.config, model)
    if (movie.plot if modality == "plot" else movie.poster) is None:
        return None
    probabilities = predictor([movie], model)[0]
    genre = int(probabilities.argmax())
    try:
        found = explanations.explain(predictor, movie, model, [predictor.genres[genre]])
    except InputError:
        return None
    if modality == "plot":
        scores = found.word_scores[:, 0]
    elif model in found.heat_maps:
        heat = found.heat_maps[model][0]
        shape = _ROWS, max(1, round(_ROWS * heat.shape[1] / heat.shape[0]))
        coarse = Image.fromarray(heat).resize(shape[::-1], Image.Resampling.BOX)
        scores = np.asarray(coarse).ravel()
        pixels = posters.decode(movie.poster, *heat.shape)
    else:
        return None
    if len(scores) < 2:
        return None
    kept = {
        f"{'insertion' if insertion else 'deletion'}_{order}": masks(by, insertion)
        for order, by in (("explained", scores), ("random", rng.permutation(len(scores))))
        for insertion in (False, True)
    }
    # Curves share points, such as their ends; a batch has room for what is left.
    different, point = np.unique(np.concatenate(list(kept.values())), axis=0, return_inverse=True)
    if modality == "plot":
        movies = parts_of_plot(movie, different)
    else:
        movies = parts_of_poster(pixels, shape, different)
    points = predictor(movies, model)[point, genre].reshape(len(kept), -1)
    return dict(zip(kept, points))


def measure(
    predictor: Predictor, movies: Iterable[Movie], model: str, count: int, seed: int
) -> dict:
    """Returns the mean curves of a model, and the areas under them."""
    rng, found = np.random.default_rng(seed), []
    for movie in movies:
        if len(found) == count:
            break
        if (answers := curves(predictor, movie, model, rng)) is not None:
            found.append(answers)
    if not found:
        raise InputError(f"No movie has what {model} looks at.")
    result = {"movies": len(found), "shares": _SHARES.tolist(), "curves": {}, "areas": {}}
    for name in found[0]:
        curve = np.mean([answers[name] for answers in found], axis=0)
        result["curves"][name] = np.round(curve.astype(float), 4).tolist()
        result["areas"][name] = round(float(curve.mean()), 4)
    return result


def truth(predictor: Predictor, pairs, model: str, count: int) -> dict:
    """Returns how often the explanation of a predicted genre finds the genre's cue."""
    modality = registry.modality(predictor.config, model)
    hits = cases = movies = 0
    for movie, cues in pairs:
        seen = getattr(cues, modality)
        if movies == count or seen is None:
            continue
        movies += 1
        decided = predictor.decide(predictor([movie], model)[0], model)
        genres = [
            genre
            for genre, cue, yes in zip(predictor.genres, seen, decided)
            if cue and yes and genre in movie.genres
        ]
        if not genres:
            continue
        found = explanations.explain(predictor, movie, model, genres)
        for column, genre in enumerate(genres):
            if modality == "plot":
                hits += bool(set(found.strongest(genre, 3)) & set(synthetic.cue_words(genre)))
            elif model in found.heat_maps:
                box = cues.boxes[predictor.genres.index(genre)]
                hits += in_brightest_fifth(found.heat_maps[model][column], box)
            cases += 1
    return {"movies": movies, "explanations": cases, "found": hits}


def in_brightest_fifth(heat: np.ndarray, box: np.ndarray) -> bool:
    """Returns whether the centre of a figure of the embedded corpus lies there."""
    left, top, right, bottom = box
    row = int((top + bottom) / 2 * heat.shape[0] / synthetic.POSTER_HEIGHT)
    column = int((left + right) / 2 * heat.shape[1] / synthetic.POSTER_WIDTH)
    return bool(heat[row, column] > 0 and heat[row, column] >= np.quantile(heat, 0.8))


def run(workdir: str, movies: str, folder: str, count: int, seed: int) -> dict:
    """Measures all encoders that are fused."""
    predictor = Predictor.load(workdir)
    results = {
        "machine": machine.describe(),
        "date": datetime.date.today().isoformat(),
        "models": {},
        "truth": {},
    }
    pairs = []
    if not movies:
        settings = dict(predictor.config.data.get("synthetic", {}))
        pairs = list(synthetic.generate(**settings)["test"])
    for model in predictor.config.fusion.encoders:
        if movies:
            settings = table.TableSettings.to_predict(predictor.config.data, (), folder or None)
            rows = table.read_movies(movies, settings)
        else:
            rows = (movie for movie, _ in pairs)
        results["models"][model] = measure(predictor, rows, model, count, seed)
        if pairs:
            results["truth"][model] = truth(predictor, pairs, model, count)
    return results


def describe(results: dict) -> str:
    """Formats the areas, and the shares of cues that were found, as tables."""
    lines = [
        f"{results['machine']}; {results['date']}",
        "mean probability of the likeliest genre over the curve",
        f"{'model':<20}{'movies':>7}{'deletion':>10}{'random':>8}{'insertion':>11}{'random':>8}",
    ]
    for model, figures in results["models"].items():
        areas = figures["areas"]
        lines.append(
            f"{model:<20}{figures['movies']:>7}{areas['deletion_explained']:>10.3f}"
            f"{areas['deletion_random']:>8.3f}{areas['insertion_explained']:>11.3f}"
            f"{areas['insertion_random']:>8.3f}"
        )
    for model, figures in results["truth"].items():
        share = figures["found"] / max(1, figures["explanations"])
        lines.append(
            f"{model}: the cue is found in {figures['found']} of {figures['explanations']} "
            f"explanations ({share:.0%})."
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    values = flags.FLAGS
    memory.keep_freed()
    logging.set_verbosity(logging.ERROR)  # orbax tells every file that it reads
    try:
        results = run(values.workdir, values.movies, values.posters, values.count, values.seed)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    write_text(pathlib.Path(values.output), json.dumps(results, indent=2) + "\n")
    print(describe(results))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Working directory of a finished experiment.")
    flags.DEFINE_string("movies", "", "Table of movies; empty: those of the embedded corpus.")
    flags.DEFINE_string("posters", "", "Folder of the table's posters.")
    flags.DEFINE_integer("count", 200, "Number of movies to measure.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the random orders.")
    flags.DEFINE_string("output", "faithfulness.json", "JSON file for the figures.")
    flags.mark_flag_as_required("workdir")
    app.run(main)
