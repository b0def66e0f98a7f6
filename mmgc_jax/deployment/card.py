"""Writes the model card of an exported folder: figures, use, data, limits, licences.

The metadata above it are those of the Hugging Face Hub. The tables are of `results.json`.
"""

import datetime
import importlib.metadata
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import ml_collections

from mmgc_jax.deployment.graphs import PLATFORMS
from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.base import MODALITIES, Portable
from mmgc_jax.evaluation import tables
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.files import Path

# The splits of results.json, the most telling first, and how they are called.
_SPLITS = {
    "test": "movies of the test split",
    "validation": "movies of the validation split",
    "cross_validation": "training movies, predicted out of fold",
}
# Figures of results.json: its name there, in the table, and on the hub.
_FIGURES = (
    ("auc_macro", "AUC macro", "roc_auc"),
    ("map", "mAP", "average_precision"),
    ("f1_macro_tuned", "F1 macro", "f1"),
    ("f1_micro_tuned", "F1 micro", "f1"),
    ("ece", "calibration error", "ece"),
)


class About(NamedTuple):
    """Facts about an exported model that the files of its experiment do not have.

    Attributes:
      title: of the card.
      license: identifier of the licence that the owner gives to the model, as the hub has it.
      name: of the repository on the hub, `owner/name`; None if there is none.
    """

    title: str
    license: str = "other"
    name: str | None = None


def text(
    predictor: Predictor, workdir: Path, about: About, portables: Mapping[str, Portable]
) -> str:
    """Returns the card as Markdown.

    Args:
      predictor: the finished experiment.
      workdir: its working directory.
      about: what its files do not say.
      portables: how movies are read for the encoders, by the encoder's name.
    """
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    split = next(name for name in _SPLITS if name in results)
    figures = results[split]
    metadata = _metadata(predictor, about, split, figures)
    return f"---\n{metadata}\n---\n\n{_body(predictor, about, split, figures, portables)}"


def _metadata(predictor: Predictor, about: About, split: str, figures: Mapping) -> str:
    """Returns the hub's metadata as YAML."""
    from huggingface_hub import EvalResult, ModelCardData  # only here: it takes a moment to import

    config = predictor.config
    source = config.data.source
    titles = fusion.titles(config)
    evaluated = [
        EvalResult(
            task_type="multi-label-classification",
            task_name="movie genres",
            dataset_type="multimodal-imdb-subset" if source == "talk" else source,
            dataset_name=tables.SOURCES[source],
            dataset_split=split,
            metric_type=of_hub,
            metric_name=f"{title}, {titles[model]}",
            metric_value=round(figures[model][name], 4),
        )
        for model in (fusion.FUSION, *config.encoders)
        for name, title, of_hub in _FIGURES
        if _is_number(figures.get(model, {}).get(name))
    ]
    has = _modalities(config)
    tags = ["movies", "genres", "multi-label-classification", "jax", "flax"]
    return ModelCardData(
        model_name=about.title,
        library_name="mmgc_jax",
        license=about.license,
        tags=tags + ["multimodal"] * (len(has) > 1),
        pipeline_tag=_PIPELINE_TAGS.get(has),
        eval_results=evaluated,
    ).to_yaml()


def _body(
    predictor: Predictor,
    about: About,
    split: str,
    figures: Mapping,
    portables: Mapping[str, Portable],
) -> str:
    config, has = predictor.config, _modalities(predictor.config)
    error = figures[fusion.FUSION].get("ece")
    of_error = f"Expected calibration error of fusion: {error:.3f}." if _is_number(error) else ""
    return _TEMPLATE.format(
        title=about.title,
        inputs=" and ".join(f"its {modality}" for modality in has),
        num_genres=len(predictor.genres),
        genres=", ".join(predictor.genres),
        version=importlib.metadata.version("mmgc_jax"),
        place=f"hf://{about.name}" if about.name else "FOLDER",
        arguments=", ".join(f"{modality}={_EXAMPLES[modality]}" for modality in has),
        items=", ".join(f'"{modality}": {_EXAMPLES[modality]}' for modality in has),
        flag=f"--{has[0]}={_EXAMPLES[has[0]]}",
        needs=" ".join(_needs(portables)),
        today=datetime.date.today().isoformat(),
        jax=jax.__version__,
        platforms=", ".join(PLATFORMS),
        movies=f"{figures[fusion.FUSION]['movies']:,}",
        split=_SPLITS[split],
        data=tables.SOURCES[config.data.source],
        table=_table(predictor, figures),
        folds=config.folds,
        rarest=_rarest(figures),
        missing=" and without a ".join(has),
        error=of_error,
        licences="\n".join(_licences(about, portables)),
    )


_PIPELINE_TAGS = {("plot",): "text-classification", ("poster",): "image-classification"}
_EXAMPLES = {"plot": '"A retired spy returns."', "poster": '"poster.jpg"'}
_TEMPLATE = """\
# {title}

Predicts the genres of a movie from {inputs}: a calibrated probability for each of
{num_genres} genres, of which a movie can have several.

Genres: {genres}.

## Use

With mmgc_jax {version}:

```python
from mmgc_jax import Movie, Predictor

predictor = Predictor.load("{place}")
probabilities = predictor([Movie({arguments})])
predictor.decide(probabilities)  # which ones reach the threshold of their genre
```

Without it, in a copy of this folder, after `pip install {needs}`:

```python
import sys

sys.path.insert(0, "FOLDER")
from model import Model

model = Model()
probabilities = model([{{{items}}}])
model.decide(probabilities)
```

The same as a command: `python FOLDER/model.py {flag}`.
Both ways give the same probabilities, up to rounding.

`graphs/` has StableHLO, written on {today} by `jax.export` of jax {jax} for the platforms
{platforms}, with a symbolic batch size; parameters are arguments. **It expires**: JAX
guarantees to read it for
[6 months](https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). With
mmgc_jax, the rest of the folder can be read later, too, and exported again.

## Intended use

To suggest genres where a person can correct them, as in catalogues and searches, and for research
and teaching. It is not meant for decisions about people.

## Figures

On {movies} {split} ({data}).
Each model is judged on the movies that have what it reads; F1 is at the thresholds of
`calibration.json`.

{table}

## Data

Trained on {data}, in {folds} folds, whose models are averaged.
{rarest}

## Limits

- Labels are opinions. Gaps and mistakes in the labels of the training movies are learned.
- Movies that are unlike those it was trained on, for example of another language, decade or kind of
  poster, get poorer predictions than the figures say.
- A movie without a {missing} gets the genres' frequencies among the training
  movies.

## Calibration

Probabilities are calibrated by Platt scaling for each genre, on out-of-fold predictions of the
training movies. The thresholds maximise the F1 of each genre on the same predictions.
{error}

## Licences

{licences}
"""


def _needs(portables: Mapping[str, Portable]) -> list[str]:
    """Returns the packages that the loader needs."""
    packages = [name for portable in portables.values() for name in portable.packages]
    return list(dict.fromkeys(["jax", "numpy", "flatbuffers", *packages]))


def _licences(about: About, portables: Mapping[str, Portable]) -> list[str]:
    lines = [f"- The model: {about.license}."]
    if about.license == "other":
        lines = ["- The model: its owner has named no licence. Ask the owner before you use it."]
    lines.append("- The code: Apache 2.0.")
    return lines + [
        f"- `{name}`, {line}." for name, portable in portables.items() for line in portable.licences
    ]


def _modalities(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the modalities that the encoders look at."""
    used = {registry.modality(config, name) for name in config.encoders}
    return tuple(modality for modality in MODALITIES if modality in used)


def _table(predictor: Predictor, figures: Mapping) -> str:
    titles = fusion.titles(predictor.config)
    shown = [figure for figure in _FIGURES if _is_number(figures[fusion.FUSION].get(figure[0]))]
    lines = [
        f"| model | name | movies | {' | '.join(title for _, title, _ in shown)} |",
        f"| --- | --- |{' ---: |' * (len(shown) + 1)}",
    ]
    for model in predictor.models:
        if of_model := figures.get(model):
            values = (of_model.get(name) for name, _, _ in shown)
            cells = [f"{value:.3f}" if _is_number(value) else "-" for value in values]
            movies = f"{of_model['movies']:,}"
            lines.append(f"| {' | '.join([titles[model], f'`{model}`', movies, *cells])} |")
    return "\n".join(lines)


def _rarest(figures: Mapping) -> str:
    """Names the genres with the fewest judged movies."""
    of_genres = figures[fusion.FUSION].get("per_genre", {})
    positives = {genre: of_genre["positives"] for genre, of_genre in of_genres.items()}
    rarest = sorted(positives, key=positives.get)[:3]
    listed = ", ".join(f"{genre} ({positives[genre]:,})" for genre in rarest)
    return f"Genres with the fewest judged movies: {listed}." if rarest else ""


def _is_number(figure) -> bool:
    return figure is not None and math.isfinite(figure)
