"""Pages of HTML that need no network: templates by jinja2, and the styles of all pages.

`movie` makes the part of a page about one movie; `document` makes a whole page.
"""

import base64
import functools
import pathlib

import jinja2
import markupsafe
import numpy as np

from mmgc_jax.explanations import CALIBRATION, CORRECTION, PRIOR, Explanation, poster_pixels

_FOLDER = pathlib.Path(__file__).parent


def style(*names: str) -> str:
    """Returns the styles of this folder with these names: `colours`, `page`, `movie`, `report`."""
    return "\n".join((_FOLDER / f"{name}.css").read_text(encoding="utf-8") for name in names)


# Styles of all pages, light and dark.
STYLE = style("colours", "page", "movie")
_POSTER_HEIGHT = 288  # pixels
_MOST_BARS = 10
# Words with less than this share of the strongest score have no colour, and no number.
_LEAST_COLOUR, _LEAST_NUMBER = 0.08, 0.25
_TERMS = {
    PRIOR: "Frequency of the genre",
    CORRECTION: "Correction by fusion",
    CALIBRATION: "Calibration",
}


@functools.cache
def environment() -> jinja2.Environment:
    """Returns the environment of the templates in this folder; it escapes all values."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def document(title: str, body: str, further_style: str = "") -> str:
    """Returns a whole page.

    Args:
      title: plain text.
      body: HTML, such as from `movie`; it is not escaped.
      further_style: CSS in addition to `STYLE`.
    """
    template = environment().get_template("page.html")
    return template.render(
        title=title, style=markupsafe.Markup(STYLE + further_style), body=markupsafe.Markup(body)
    )


def movie(explanation: Explanation, number: int = 0) -> str:
    """Returns the part of a page that explains the answer for a movie.

    Args:
      explanation: of the movie.
      number: of the movie on its page; must differ between the movies of a page.
    """
    e = explanation
    order = np.argsort(-e.probabilities, kind="stable")
    # The likeliest genres are always seen, and all predicted ones.
    shown = [n for rank, n in enumerate(order) if rank < _MOST_BARS or e.predicted[n]]
    poster = poster_pixels(e, _POSTER_HEIGHT)
    return (
        environment()
        .get_template("movie.html")
        .render(
            name=e.movie.title or e.movie.id or "The movie",
            notes=e.notes,
            poster=None if poster is None else data_url(_jpeg(poster)),
            bars=[_bar(e, n) for n in shown],
            more_bars=[_bar(e, n) for n in order if n not in shown],
            group=f"movie{number}",
            parts=[_genre(e, column, poster) for column in range(len(e.chosen))],
        )
    )


def _bar(e: Explanation, index: int) -> dict:
    return {
        "genre": e.genres[index],
        "predicted": bool(e.predicted[index]),
        "percent": percent(e.probabilities[index]),
        "threshold": percent(e.thresholds[index]),
        "width": _share(e.probabilities[index]),
        "mark": _share(e.thresholds[index]),
    }


def heat_picture(pixels: np.ndarray, heat: np.ndarray) -> bytes:
    """Draws a heat map over a poster; dark blue is low, yellow is high, as in cividis.

    The colours differ in lightness, so that they can be told apart without colour vision. A line
    encloses the brightest fifth.

    Args:
      pixels: RGB <uint8>[rows, columns, 3].
      heat: <float32>[height, width], in 0..1.

    Returns:
      A JPEG.
    """
    import matplotlib
    from PIL import Image

    rows, columns = pixels.shape[:2]
    resized = Image.fromarray(heat).resize((columns, rows), Image.Resampling.BILINEAR)
    heat = np.asarray(resized)
    grey = pixels.astype(np.float32).mean(axis=-1, keepdims=True)
    colours = matplotlib.colormaps["cividis"](heat)[..., :3] * 255
    mixed = 0.45 * grey + 0.55 * colours
    inside = heat >= max(float(np.quantile(heat, 0.8)), 1e-6)
    around = np.pad(inside, 1, mode="edge")
    all_inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    mixed[inside & ~all_inside] = 255
    return _jpeg(mixed.clip(0, 255).astype(np.uint8))


def _genre(e: Explanation, column: int, poster: np.ndarray | None) -> dict:
    """Makes the values of the template for one explained genre."""
    genre = e.chosen[column]
    index = e.genres.index(genre)
    scores = e.word_scores[:, column]
    strongest = max(float(np.abs(scores).max(initial=0.0)), 1.0)
    plot, words, end = e.plot, [], 0
    for word, score, known in zip(e.words, scores, e.known):
        strength = abs(float(score)) / strongest
        words.append(
            {
                "before": plot[end : word.start],
                "text": word.text,
                "known": bool(known),
                "kind": _kind(score) if strength >= _LEAST_COLOUR else "",
                "strength": f"{0.75 * strength:.2f}",
                "score": signed(score) if strength >= _LEAST_NUMBER else "",
            }
        )
        end = word.end
    terms = {name: float(values[index]) for name, values in e.evidence.items()}
    widest = max([abs(value) for value in terms.values()], default=1.0) or 1.0
    sentences = list(zip(e.sentences, e.sentence_scores[:, column]))
    return {
        "genre": genre,
        "percent": percent(e.probabilities[index]),
        "threshold": percent(e.thresholds[index]),
        "predicted": bool(e.predicted[index]),
        "words": words,
        "after": plot[end:],
        "has_unknown": not e.known.all(),
        "sentences": [
            {"text": sentence.text, "score": signed(score)}
            for sentence, score in sorted(sentences, key=lambda pair: -pair[1])
        ]
        if len(sentences) > 1
        else [],
        "maps": [
            {
                "title": e.titles[name],
                "image": data_url(heat_picture(poster, maps[column]))
                if maps[column].any()
                else None,
                "where": _where(maps[column]),
            }
            for name, maps in e.heat_maps.items()
            if poster is not None
        ],
        "terms": [
            {
                "title": _TERMS.get(name) or e.titles[name],
                "score": signed(value),
                "kind": _kind(value),
                "start": f"{50 + min(0.0, 50 * value / widest):.1f}",
                "width": f"{abs(50 * value / widest):.1f}",
            }
            for name, value in terms.items()
        ],
        "total": signed(sum(terms.values())),
        "without": [
            {"modality": modality, "percent": percent(found[index])}
            for modality, found in e.without.items()
        ],
    }


def _kind(score: float) -> str:
    return "for" if score > 0 else "against"


def signed(score: float) -> str:
    """Formats logits with a sign and one decimal."""
    rounded = round(float(score), 1) + 0.0  # no negative zero
    return f"{rounded:+.1f}".replace("-", "−")


def percent(probability: float) -> str:
    """Formats a probability as a percentage with one decimal."""
    return f"{100 * float(probability):.1f} %"


def _share(probability: float) -> str:
    return f"{min(100.0, 100 * float(probability)):.1f}"


def _where(heat: np.ndarray) -> str:
    """Says where the maximum of a map is, for readers who cannot see it."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    vertical = ("top", "middle", "bottom")[3 * int(row) // heat.shape[0]]
    horizontal = ("left", "centre", "right")[3 * int(column) // heat.shape[1]]
    return f"brightest at the {vertical} {horizontal}"


def _jpeg(pixels: np.ndarray) -> bytes:
    from mmgc_jax.data import posters

    return posters.encode_jpeg(pixels, quality=85)


def data_url(image: bytes, kind: str = "jpeg") -> markupsafe.Markup:
    """Returns an address that holds a whole image, of kind `jpeg` or `png`."""
    return markupsafe.Markup(f"data:image/{kind};base64,{base64.b64encode(image).decode()}")
