"""A page in the browser that predicts and explains, made with gradio.

gradio is imported only by `build`, so that answers can be made, and tested, without it.
"""

import functools
import html
import pathlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mmgc_jax import answers, explanations, pages
from mmgc_jax.data import posters, table
from mmgc_jax.data.movies import MAX_CHARACTERS, Movie
from mmgc_jax.data.text import has_words
from mmgc_jax.encoders import registry
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.errors import InputError

if TYPE_CHECKING:
    import gradio

MAX_UPLOAD = "16mb"
_MOST_MOVIES = 2000  # of a table
_MOST_WAITING, _AT_ONCE = 32, 2
_SECONDS_KEPT = 900  # of uploads, so that a second question can be asked about a poster
# gradio draws lines around all cells.
_WITHIN_GRADIO = "#answer .movie :is(table, tr, td, th) { border: 0 !important; }"
_IMAGES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"]


class Service:
    """Answers the questions of visitors; several threads can use it.

    Attributes:
      modalities: `plot`, `poster` or both: what fusion looks at.
    """

    def __init__(self, predictor: Predictor, folder: pathlib.Path):
        """Stores the arguments.

        Args:
          predictor: answers.
          folder: for files that visitors download.
        """
        self._predictor = predictor
        self._folder = folder
        config = predictor.config
        used = registry.fused_modalities(config)
        self.modalities = tuple(name for name in ("plot", "poster") if name in used)

    def explain(self, plot: str | None, poster: str | None) -> Iterator[str]:
        """Yields HTML with the genres of a movie at once, and then again with the reasons.

        Args:
          plot: the text; may be empty.
          poster: path of an image file; None without a poster.

        Raises:
          InputError: if neither is given, or one of them cannot be read.
        """
        movie = self._movie(plot, poster)
        style = pages.style("colours", "movie") + _WITHIN_GRADIO
        for quick in (True, False):
            explanation = explanations.explain(self._predictor, movie, quick=quick)
            more = '<p role="status">Words and heat maps follow.</p>' if quick else ""
            yield f"<style>{style}</style>{pages.movie(explanation)}{more}"

    def predict(self, plot: str | None = "", poster: str | None = None) -> dict[str, Any]:
        """Returns the probabilities of a movie, for programs.

        Args:
          plot: the text; may be empty.
          poster: path of an image file; None without a poster.

        Returns:
          `probabilities` and `thresholds` by genre, the `predicted` genres, the likeliest first,
          and `notes` on why the answer may be poor.

        Raises:
          InputError: as `explain` raises.
        """
        predictor, movie = self._predictor, self._movie(plot, poster)
        probabilities = predictor([movie])[0]
        found = {
            genre: round(float(value), 6) for genre, value in zip(predictor.genres, probabilities)
        }
        decided = dict(zip(predictor.genres, predictor.decide(probabilities)))
        return {
            "probabilities": found,
            "thresholds": dict(zip(predictor.genres, predictor.thresholds().round(6).tolist())),
            "predicted": [g for g in sorted(found, key=lambda g: -found[g]) if decided[g]],
            "notes": predictor.notes(movie),
        }

    def predict_table(self, file: str | None) -> str:
        """Predicts all movies of a table from their plots; returns the path of a CSV file.

        Posters are not read, since a table could name any file of this machine.

        Args:
          file: path of the table.

        Raises:
          InputError: if it is not such a table, or has too many movies.
        """
        if not file:
            raise InputError("Choose a table first.")
        given, settings = pathlib.Path(file), table.TableSettings.to_predict(
            self._predictor.config.data
        )  # fmt: skip
        try:
            movies = table.read(given, settings, labelled=False).movies
        except InputError as error:
            # Visitors know the name of their file, not its place on this machine.
            raise InputError(str(error).replace(str(given), given.name)) from error
        if len(movies) > _MOST_MOVIES:
            raise InputError(
                f"{given.name} has {len(movies):,} movies; at most {_MOST_MOVIES:,} are possible. "
                "mmgc predict takes any number."
            )
        found = answers.predict(self._predictor, movies, "fusion")
        with tempfile.NamedTemporaryFile(
            dir=self._folder, prefix="genres-", suffix=".csv", delete=False
        ) as stream:
            answers.write_csv(stream, found, self._predictor.genres, decisions=True)
        return stream.name

    def _movie(self, plot: str | None, poster: str | None) -> Movie:
        plot = (plot or "").strip()
        if len(plot) > MAX_CHARACTERS:
            raise InputError(f"The plot has more than {MAX_CHARACTERS:,} characters.")
        if not has_words(plot) and not poster:
            raise InputError(f"Give a {' or a '.join(self.modalities)}.")
        content = None
        if poster:
            try:
                content = posters.read_image(poster)
                posters.decode(content, 32, 32)
            except FileNotFoundError as error:
                raise InputError("The poster is not kept any more; upload it again.") from error
            except (OSError, posters.PosterError) as error:
                reason = getattr(error, "strerror", None) or error
                raise InputError(f"The poster cannot be read: {reason}.") from error
        return Movie(plot=plot or None, poster=content)


def warm_up(service: Service, examples: Sequence[Movie]) -> None:
    """Explains the examples, so that the programs for most visitors are compiled."""
    for movie in examples:
        for quick in (True, False):
            explanations.explain(service._predictor, movie, quick=quick)


def build(service: Service, title: str, examples: Sequence[Movie]) -> "gradio.Blocks":
    """Builds the page.

    Args:
      service: answers.
      title: of the page.
      examples: movies that visitors can try.
    """
    import gradio

    def safe(function):
        """Lets programs see an InputError; the names of arguments are those of the API."""

        @functools.wraps(function)
        def call(*arguments):
            try:
                return function(*arguments)
            except InputError as error:
                message = html.escape(str(error), quote=False)  # gradio would render it
                raise gradio.Error(message, duration=None, print_exception=False) from error

        return call

    # Visitors see an InputError where the answer would be: gradio's own message soon disappears.
    def explain(plot, poster):
        try:
            yield from service.explain(plot, poster)
        except InputError as error:
            yield _alert(error)

    def predict_table(file):
        try:
            return service.predict_table(file), ""
        except InputError as error:
            return None, _alert(error)

    has_plot, has_poster = ("plot" in service.modalities, "poster" in service.modalities)
    given = " and ".join(service.modalities)
    with gradio.Blocks(
        title=title, analytics_enabled=False, delete_cache=(60, _SECONDS_KEPT)
    ) as page:
        gradio.Markdown(f"# {title}\nGenres of a movie from its {given}, and why.")
        with gradio.Tab("One movie"):
            with gradio.Row():
                plot = gradio.Textbox(
                    label="Plot", lines=8, max_length=20_000, visible=has_plot, scale=2
                )
                poster = gradio.File(label="Poster", file_types=_IMAGES, visible=has_poster)
            ask = gradio.Button("Which genres?", variant="primary")
            if examples:
                gradio.Examples(
                    [
                        [movie.plot or "", _poster_file(service, movie, number)]
                        for number, movie in enumerate(examples, 1)
                    ],
                    [plot, poster],
                    cache_examples=False,
                )
            answer = gradio.HTML(elem_id="answer")
            ask.click(explain, [plot, poster], answer, api_visibility="private")
            # Without a button on the page: for programs alone.
            gradio.Button(visible=False).click(
                safe(service.predict), [plot, poster], gradio.JSON(visible=False),
                api_name="predict",
            )  # fmt: skip
        if has_plot:
            with gradio.Tab("A table"):
                gradio.Markdown(
                    f"CSV or TSV with a column of plots, of at most {_MOST_MOVIES:,} movies; the "
                    "answer has a row for each movie. Posters are not used."
                )
                given_table = gradio.File(label="Table", file_types=[".csv", ".tsv"])
                ask_all = gradio.Button("Which genres?", variant="primary")
                found = gradio.File(label="Probabilities", interactive=False)
                message = gradio.HTML()
                ask_all.click(
                    predict_table, given_table, [found, message], api_visibility="private"
                )
                gradio.Button(visible=False).click(
                    safe(service.predict_table), given_table, gradio.File(visible=False),
                    api_name="predict_table",
                )  # fmt: skip
    page.queue(max_size=_MOST_WAITING, default_concurrency_limit=_AT_ONCE)
    return page


def _alert(error: InputError) -> str:
    return f'<p role="alert">{html.escape(str(error))}</p>'


def _poster_file(service: Service, movie: Movie, number: int) -> str | None:
    """Writes the poster of an example; returns its path, or None if there is none."""
    if movie.poster is None:
        return None
    file = pathlib.Path(service._folder) / f"poster_{number}.jpg"
    file.write_bytes(movie.poster)
    return str(file)


def launch(page: "gradio.Blocks", host: str, port: int) -> None:
    """Serves the page until the process is interrupted, by Ctrl-C or SIGTERM.

    Raises:
      InputError: if the port cannot be used.
    """
    import gradio

    # Other themes fetch fonts from other servers.
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_UPLOAD,
            footer_links=["api"],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            theme=theme,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise InputError(f"--host={host} --port={port} cannot be used: {error}") from error
    print(f"Open http://{host}:{port} in a browser. Ctrl-C ends it.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    page.block_thread()
