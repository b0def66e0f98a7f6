"""Shows why a movie gets its genres: words, part of the poster, and what each model adds.

    mmgc explain --workdir=runs/demo --plot="two brothers find a spaceship ."
    mmgc explain --workdir=runs/demo --plot="..." --poster=poster.jpg --output=movie.html
    mmgc explain --workdir=runs/demo --plot="..." --genres=Drama,Sci-Fi --output=movie.png
    mmgc explain --workdir=runs/demo --movies=movies.csv --posters=FOLDER --output=movies.html

The suffix of --output decides the format; without it, one movie is explained in the terminal.

    .html     one page that needs no network: poster and heat map, plot with coloured words, a bar
              for each genre with its threshold, and the sum of all models
    .png      the same as a picture; one movie and its first genre
    .json     all figures, an object for each movie, each on a line of its own (JSON Lines)

Words: logits by which the answer falls if a word is taken out of the plot. Heat maps: Grad-CAM.
"""

import logging
import pathlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from absl import flags

from mmgc_jax import command_line, movie_flags
from mmgc_jax.runtime.errors import InputError

# Imported by the functions that need them, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    from mmgc_jax.data.movies import Movie
    from mmgc_jax.explanations import Explanation
    from mmgc_jax.predictor import Predictor

logger = logging.getLogger("mmgc_jax")

_SUFFIXES = (".html", ".png", ".json", ".jsonl")
_MOST_ON_A_PAGE = 100


def define_flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    text("workdir", "Working directory of a finished experiment.")
    movie_flags.define_one(values)
    movie_flags.define_table(values)
    text("stage", "Model to explain: fusion, or an encoder of the experiment.", "fusion")
    command_line.define_list(
        values, "genres", "Genres to explain, such as Drama,Sci-Fi. Without it, the predicted ones."
    )
    flags.DEFINE_integer(
        "block",
        None,
        "Block of the poster's network whose activations make the heat map. Without it, the last "
        "one with enough positions.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "integrated_gradients",
        False,
        "Whether to compute integrated gradients of the plot's models, too; .json has them, with "
        "the gap to completeness.",
        flag_values=values,
    )
    text("output", "File to write: .html, .png, .json or .jsonl. Needed for a table.")
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    is_table, suffix = _check_flags(values)
    plot = None if is_table else movie_flags.read_plot(values)

    from mmgc_jax.encoders import registry
    from mmgc_jax.predictor import Predictor

    command_line.cache_small_programs()
    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir)
    command_line.require_model(values.stage, predictor.models)
    if is_table:
        movies = movie_flags.table(values, predictor.config.data, [values.output])
    else:
        movies = [movie_flags.movie(values, plot)]
    explained = _explain(values, predictor, movies, is_table)
    if not values.output:
        (explanation,) = explained
        print(describe(explanation))
        return
    count = _write(values.output, suffix, explained)
    print(f"{count} {'movie' if count == 1 else 'movies'} explained in {values.output}")


def _check_flags(values: flags.FlagValues) -> tuple[bool, str]:
    """Returns whether a table is to be explained, and the suffix of the output.

    Raises:
      InputError: if flags contradict one another, or some are missing.
    """
    is_table = movie_flags.is_table(values)
    suffix = pathlib.PurePath(values.output or "").suffix.lower()
    if is_table and not values.output:
        raise InputError("A table needs --output=FILE.html or --output=FILE.json.")
    if values.output and suffix not in _SUFFIXES:
        raise InputError(f"--output={values.output}: {', '.join(_SUFFIXES)} are possible.")
    if is_table and suffix == ".png":
        raise InputError("A picture is of one movie; for a table: .html, .json or .jsonl.")
    if values.integrated_gradients and suffix not in (".json", ".jsonl"):
        raise InputError("--integrated_gradients is for --output=FILE.json, which shows them.")
    return is_table, suffix


def _explain(
    values: flags.FlagValues, predictor: "Predictor", movies: Collection["Movie"], is_table: bool
) -> Iterable["Explanation"]:
    """Explains movies one after the other."""
    from mmgc_jax import explanations
    from mmgc_jax.runtime.progress import progress_bar

    with progress_bar(desc="explaining", unit="movie", total=len(movies), shown=is_table) as bar:
        for movie in movies:
            yield explanations.explain(
                predictor,
                movie,
                values.stage,
                values.genres or None,
                block=values.block,
                gradients=values.integrated_gradients,
            )
            bar.update(1)


def _write(output: str, suffix: str, explained: Iterable["Explanation"]) -> int:
    """Writes explanations to a file; returns their number."""
    from mmgc_jax.runtime.files import as_path, write_atomically

    count = 0

    def counted() -> Iterable["Explanation"]:
        nonlocal count
        for explanation in explained:
            if suffix == ".html" and count == _MOST_ON_A_PAGE:
                logger.warning(
                    "A page shows at most %d movies; the others of the table are left out. "
                    "--output=FILE.json has all.",
                    _MOST_ON_A_PAGE,
                )
                return
            count += 1
            yield explanation

    def write(stream: BinaryIO) -> None:
        if suffix == ".html":
            from mmgc_jax import pages

            parts = [
                pages.movie(explanation, number) for number, explanation in enumerate(counted())
            ]
            stream.write(pages.document("Why these genres?", "\n".join(parts)).encode())
        elif suffix == ".png":
            from mmgc_jax.pages import picture

            for explanation in counted():
                picture.save(stream, explanation)
        else:
            import json

            for explanation in counted():
                stream.write(json.dumps(explanation.to_json(), ensure_ascii=False).encode() + b"\n")

    try:
        write_atomically(as_path(output), write)
    except OSError as error:
        raise InputError(
            f"--output={output} cannot be written: {movie_flags.reason(error)}."
        ) from error
    return count


def describe(explanation: "Explanation") -> str:
    """Describes an explanation in a few lines for each explained genre."""
    e = explanation
    lines = [e.movie.title] if e.movie.title else []
    for column, genre in enumerate(e.chosen):
        index = e.genres.index(genre)
        verdict = "predicted" if e.predicted[index] else "not predicted"
        probability, threshold = e.probabilities[index], e.thresholds[index]
        lines.append(f"{genre}: {probability:.1%}, {verdict} (threshold {threshold:.1%})")
        order = sorted(range(len(e.words)), key=lambda n: -abs(e.word_scores[n, column]))[:6]
        words = [f"{e.words[n].text} {_signed(e.word_scores[n, column])}" for n in order]
        if words:
            lines.append(f"  words:     {', '.join(words)}")
        if e.evidence:
            terms = [f"{name} {_signed(values[index])}" for name, values in e.evidence.items()]
            lines.append(f"  sum:       {', '.join(terms)}")
        if e.without:
            lost = [f"without the {name} {found[index]:.1%}" for name, found in e.without.items()]
            lines.append(f"  otherwise: {', '.join(lost)}")
    if e.heat_maps:
        lines.append("Words and sums are in logits. --output=FILE.html shows the heat maps, too.")
    else:
        lines.append("Words and sums are in logits.")
    return "\n".join([*lines, *(f"Note: {note}" for note in e.notes)])


def _signed(score: float) -> str:
    return f"{round(float(score), 1) + 0.0:+.1f}"  # no negative zero


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir",))


if __name__ == "__main__":
    start()
