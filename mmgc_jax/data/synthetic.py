"""Generates a synthetic corpus for which the best possible AUC is known.

Each movie has each genre with the same fixed probability, independently of the others. A genre can
leave a *cue* in the plot (a sentence with two of the genre's words) and in the poster (the genre's
figure in the genre's colour). The probability of a cue depends on the genre and the modality. A
movie without the genre has a false cue with a smaller probability. Genres with even indices are
easier to recognise from the plot, those with odd indices from the poster.

Genres are independent, and cues are independent given the genre, so Bayes' rule gives the exact
probability of a genre given the cues: see `true_probabilities`. Up to sampling noise, no model can
have a higher AUC than these probabilities.
"""

import dataclasses
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from mmgc_jax.data.movies import GENRES, Movie

POSTER_HEIGHT, POSTER_WIDTH = 256, 128
_CELL = 32  # pixels; the poster is a grid of 8 x 4 cells, more than there are genres

_PREVALENCE = 0.15  # P(genre)
_TRUE_CUE = {"strong": 0.95, "weak": 0.5}  # P(cue | genre), in the genre's two modalities
_FALSE_CUE = {"strong": 0.02, "weak": 0.1}  # P(cue | no genre)
_NO_PLOT, _NO_POSTER = 0.05, 0.15  # P(missing)

_CUE_WORDS = {
    "Action": "explosion chase gunfight", "Adventure": "treasure expedition jungle",
    "Animation": "cartoon puppet sketch", "Biography": "memoir childhood legacy",
    "Comedy": "prank joke blunder", "Crime": "heist mobster robbery",
    "Documentary": "interview footage archive", "Drama": "grief betrayal regret",
    "Family": "puppy grandmother holiday", "Fantasy": "dragon wizard spell",
    "Film-Noir": "blackmail cigarette raincoat", "History": "empire treaty dynasty",
    "Horror": "ghost scream crypt", "Music": "guitar rehearsal concert",
    "Musical": "chorus ballroom tapdance", "Mystery": "clue riddle disappearance",
    "News": "headline broadcast reporter", "Romance": "kiss wedding sweetheart",
    "Sci-Fi": "spaceship robot galaxy", "Short": "vignette glimpse anecdote",
    "Sport": "boxer championship coach", "Thriller": "hostage conspiracy ambush",
    "War": "battalion trench soldier", "Western": "sheriff saloon rancher",
}  # fmt: skip
_WHO = (
    "a doctor", "the widow", "two brothers", "an old sailor", "the mayor", "a student",
    "her neighbour",
)  # fmt: skip
_WHERE = (
    "in the city",
    "near the border",
    "by the sea",
    "on a farm",
    "one winter",
    "far from home",
)
# Each cue has two of its genre's words, so that word vectors can learn that they belong together.
_CUE_PATTERNS = (
    "{who} cannot forget the {cue} and the {also} {where} .",
    "{where} , {who} is drawn into a {cue} with a {also} .",
    "everything changes for {who} after the {cue} of the {also} .",
    "a {cue} and a {also} bring {who} together {where} .",
)
_PLAIN_PATTERNS = (
    "{who} lives quietly {where} .",
    "{who} meets {other} {where} .",
    "{where} , {who} waits for {other} .",
    "{who} and {other} must decide what to do .",
)
# Red, amber, green, lime, teal, blue, violet, pink.
_COLOURS = (
    (165, 24, 24), (216, 170, 32), (24, 120, 40), (140, 220, 60),
    (24, 165, 165), (32, 78, 216), (95, 24, 165), (226, 90, 180),
)  # fmt: skip
_FIGURES = ("disc", "cross", "bars")


@dataclasses.dataclass(frozen=True)
class Cues:
    """The cues in a movie.

    Attributes:
      plot: <bool>[24], whether each genre has a cue in the plot; None if there is no plot.
      poster: <bool>[24], whether each genre has a cue in the poster; None if there is no poster.
      boxes: <int64>[24, 4], left, top, right and bottom (exclusive) of each cue's figure in the
        poster, in its pixels; zeros for genres without a cue. None if there is no poster.
    """

    plot: np.ndarray | None
    poster: np.ndarray | None
    boxes: np.ndarray | None = None


def cue_words(genre: str) -> tuple[str, ...]:
    """Returns the three words, two of which are in the plot's cue of a genre."""
    return tuple(_CUE_WORDS[genre].split())


def generate(
    seed: int = 0, train: int = 2000, validation: int = 500, test: int = 1000
) -> dict[str, Iterator[tuple[Movie, Cues]]]:
    """Generates the corpus.

    Args:
      seed: random seed, at least 0.
      train: number of movies in the training split, at least 0.
      validation: number of movies in the validation split, at least 0.
      test: number of movies in the test split, at least 0.

    Returns:
      For each split, an iterator over movies and their cues. Movie ids are `<split>-<number>`.

    Raises:
      ValueError: if an argument is not a whole number of at least 0.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for name, value in {"seed": seed, **sizes}.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}, not a whole number of at least 0")
    return {
        split: _generate_split([seed, number], split, size)
        for number, (split, size) in enumerate(sizes.items())
    }


def _generate_split(seed: list[int], split: str, size: int) -> Iterator[tuple[Movie, Cues]]:
    for number in range(size):
        yield _movie(np.random.default_rng([*seed, number]), f"{split}-{number}")


def _cue_rates(modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a modality's P(cue | genre) and P(cue | no genre), each <float64>[24]."""
    strong = np.arange(len(GENRES)) % 2 == (modality == "poster")
    return (
        np.where(strong, _TRUE_CUE["strong"], _TRUE_CUE["weak"]),
        np.where(strong, _FALSE_CUE["strong"], _FALSE_CUE["weak"]),
    )


def true_probabilities(cues: Cues, modalities=("plot", "poster")) -> np.ndarray:
    """Computes P(genre | cues) by Bayes' rule.

    Args:
      cues: the cues of one movie.
      modalities: modalities whose cues to use; missing ones are ignored.

    Returns:
      <float64>[24], a probability for each genre.
    """
    log_odds = np.full(len(GENRES), np.log(_PREVALENCE / (1 - _PREVALENCE)))
    for modality in modalities:
        seen = getattr(cues, modality)
        if seen is not None:
            true, false = _cue_rates(modality)
            log_odds += np.where(seen, np.log(true / false), np.log((1 - true) / (1 - false)))
    return 1 / (1 + np.exp(-log_odds))


def _movie(rng: np.random.Generator, movie_id: str) -> tuple[Movie, Cues]:
    present = rng.random(len(GENRES)) < _PREVALENCE
    cues = {}
    for modality in ("plot", "poster"):
        true, false = _cue_rates(modality)
        cues[modality] = rng.random(len(GENRES)) < np.where(present, true, false)
    missing = rng.random()
    if missing < _NO_PLOT:
        cues["plot"] = None
    elif missing < _NO_PLOT + _NO_POSTER:
        cues["poster"] = None
    title = f"The {rng.choice(list(_CUE_WORDS.values())).split()[0].title()} of {movie_id}"
    year = int(rng.integers(1930, 2020))
    plot = None if cues["plot"] is None else _write_plot(rng, cues["plot"])
    poster, boxes = (None, None) if cues["poster"] is None else _draw_poster(rng, cues["poster"])
    movie = Movie(
        id=movie_id,
        title=title,
        year=year,
        plot=plot,
        poster=poster,
        genres=tuple(genre for genre, is_present in zip(GENRES, present) if is_present),
    )
    return movie, Cues(**cues, boxes=boxes)


def _write_plot(rng: np.random.Generator, cues: np.ndarray) -> str:
    """Writes one sentence for each cue and two to five neutral ones, in random order."""
    words = [_CUE_WORDS[genre].split() for genre, seen in zip(GENRES, cues) if seen]
    sentences = [(rng.choice(_CUE_PATTERNS), *rng.permutation(three)[:2]) for three in words]
    sentences += [(rng.choice(_PLAIN_PATTERNS), "", "") for _ in range(rng.integers(2, 6))]
    return " ".join(
        pattern.format(
            cue=cue,
            also=also,
            who=rng.choice(_WHO),
            other=rng.choice(_WHO),
            where=rng.choice(_WHERE),
        )
        for pattern, cue, also in (sentences[n] for n in rng.permutation(len(sentences)))
    )


def _draw_poster(rng: np.random.Generator, cues: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Draws the figure of each cue into a separate cell on a grey background.

    Returns:
      A PNG, and `Cues.boxes`.
    """
    ground = tuple(int(value) for value in rng.integers(100, 130, 3))
    picture = Image.new("RGB", (POSTER_WIDTH, POSTER_HEIGHT), ground)
    draw = ImageDraw.Draw(picture)
    columns = POSTER_WIDTH // _CELL
    cells = rng.permutation(columns * (POSTER_HEIGHT // _CELL))
    size, boxes = _CELL - 4, np.zeros((len(GENRES), 4), int)
    for genre in np.flatnonzero(cues):
        row, column = divmod(int(cells[genre]), columns)
        x, y = column * _CELL + rng.integers(0, 5), row * _CELL + rng.integers(0, 5)
        _draw_figure(draw, int(x), int(y), size, genre)
        boxes[genre] = x, y, x + size, y + size
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue(), boxes


def _draw_figure(draw: ImageDraw.ImageDraw, x: int, y: int, size: int, genre: int) -> None:
    figure = _FIGURES[genre // len(_COLOURS)]
    colour = _COLOURS[genre % len(_COLOURS)]
    box = (x, y, x + size - 1, y + size - 1)
    third = size // 3
    if figure == "disc":
        draw.ellipse(box, fill=colour)
    elif figure == "cross":
        draw.rectangle((x + third, y, box[2] - third, box[3]), fill=colour)
        draw.rectangle((x, y + third, box[2], box[3] - third), fill=colour)
    else:
        for bar in range(3):
            top = y + bar * 2 * size // 5
            draw.rectangle((x, top, box[2], top + size // 5), fill=colour)
