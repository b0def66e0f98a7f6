"""Writes the model card of an exported folder: figures, use, data, limits, licences.

The metadata above it are those of the Hugging Face Hub. The tables are of `results.json`.
"""

import datetime
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections

from mmgc_jax.encoders import fusion, registry
from mmgc_jax.encoders.base import MODALITIES
from mmgc_jax.predictor import Predictor
from mmgc_jax.runtime.files import Path

# The splits of results.json, the most telling first, and how they are called.
_SPLITS = {
    "test": "movies of the test split",
    "validation": "movies of the validation split",
    "cross_validation": "training movies, predicted out of fold",
}
_SOURCES = {
    "talk": ("the movies of the talk, a subset of Multimodal IMDb", "multimodal-imdb-subset"),
    "mmimdb": ("MM-IMDb (arXiv 1702.01992)", "mmimdb"),
    "synthetic": ("synthetic movies, whose words and shapes stand for genres", "synthetic"),
    "table": ("a table of the person who trained the model", "table"),
}
# Figures of results.json: its name there, in the table, and on the hub.
_FIGURES = (
    ("auc_macro", "AUC macro", "roc_auc"),
    ("map", "mAP", "average_precision"),
    ("f1_macro_tuned", "F1 macro", "f1"),
    ("f1_micro_tuned", "F1 micro", "f1"),
    ("ece", "calibration error", "ece"),
)
_CITED = "https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees"


class About(NamedTuple):
    """What the files of an experiment do not say.

    Attributes:
      title: of the card.
      license: identifier of the licence that the owner gives to the model, as the hub has it.
      name: of the repository on the hub, `owner/name`; None if there is none.
    """

    title: str
    license: str = "other"
    name: str | None = None


def text(
    predictor: Predictor, workdir: Path, about: About, licences: Mapping[str, Sequence[str]]
) -> str:
    """Returns the card as Markdown.

    Args:
      predictor: the finished experiment.
      workdir: its working directory.
      about: what its files do not say.
      licences: sentences on the licences of pretrained weights, by the encoder's name.
    """
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    split = next(name for name in _SPLITS if name in results)
    figures, config = results[split], predictor.config
    metadata = _metadata(predictor, about, split, figures)
    return f"---\n{metadata.to_yaml()}\n---\n\n{_body(predictor, about, split, figures, licences)}"


def _metadata(predictor: Predictor, about: About, split: str, figures: Mapping):
    from huggingface_hub import EvalResult, ModelCardData  # only here: it takes a moment to import

    config = predictor.config
    data, identifier = _SOURCES[config.data.source]
    titles = fusion.titles(config)
    evaluated = [
        EvalResult(
            task_type="multi-label-classification",
            task_name="movie genres",
            dataset_type=identifier,
            dataset_name=data,
            dataset_split=split,
            metric_type=of_hub,
            metric_name=f"{title}, {titles[model]}",
            metric_value=round(figures[model][name], 4),
        )
        for model in reversed(predictor.models)
        for name, title, of_hub in _FIGURES
        if math.isfinite(figures.get(model, {}).get(name) or math.nan)
    ]
    has = _modalities(config)
    tags = ["movies", "genres", "multi-label-classification", "jax", "flax"]
    pipeline_tag = {("plot",): "text-classification", ("poster",): "image-classification"}
    return ModelCardData(
        model_name=about.title,
        library_name="mmgc_jax",
        license=about.license,
        tags=tags + ["multimodal"] * (len(has) > 1),
        pipeline_tag=pipeline_tag.get(has),
        eval_results=evaluated,
    )


def _body(
    predictor: Predictor,
    about: About,
    split: str,
    figures: Mapping,
    licences: Mapping[str, Sequence[str]],
) -> str:
    config = predictor.config
    has = _modalities(config)
    what = " and ".join(f"its {modality}" for modality in has)
    data, _ = _SOURCES[config.data.source]
    place = (about.name and f"hf://{about.name}") or "FOLDER"
    example = {"plot": '"plot": "A retired spy returns."', "poster": '"poster": "poster.jpg"'}
    movie = ", ".join(example[modality] for modality in has)
    arguments = movie.replace('"plot": ', "plot=").replace('"poster": ', "poster=")
    needs = ["jax", "numpy"]
    needs += ["pillow"] * ("poster" in has)
    needs += ["tokenizers"] * any(
        section.kind == "plot_transformer" for section in (config[n] for n in config.encoders)
    )
    today = datetime.date.today().isoformat()
    version = importlib.metadata.version("mmgc_jax")
    of_weights = [f"- {name}: {line}." for name, lines in licences.items() for line in lines]
    movies = figures[fusion.FUSION]["movies"]
    return (
        f"""# {about.title}

Predicts the genres of a movie from {what}: calibrated probabilities of {len(predictor.genres)} genres, of which a
movie can have several. A movie may lack {" or ".join(f"the {modality}" for modality in has)}.

Genres: {", ".join(predictor.genres)}.

## Use

With [mmgc_jax](https://pypi.org/project/mmgc_jax) {version}:

```python
from mmgc_jax import Movie, Predictor

predictor = Predictor.load("{place}")
probabilities = predictor([Movie({arguments})])  # <float32>[movies, genres]
predictor.decide(probabilities)  # which reach the threshold of their genre
```

Without it, in a copy of this folder, with `pip install {" ".join(needs)}` alone:

```python
import sys

sys.path.insert(0, "FOLDER")
from model import Model

model = Model()
probabilities = model([{{{movie}}}])
model.decide(probabilities)
```

or `python FOLDER/model.py --{has[0]}=...`. Both give the same probabilities, up to rounding.

The graphs in `graphs/` are StableHLO, written on {today} by `jax.export` of jax {jax.__version__} for
{", ".join(("cpu", "cuda"))} and tpu, with a symbolic batch size. **They expire:** JAX guarantees to read them [for six
months]({_CITED}); later, load the folder with mmgc_jax and export it again.

## Intended use

To suggest genres for catalogues and searches, where a person can correct them, and for research and teaching. Not
for decisions about people.

## Figures

Of {movies:,} {_SPLITS[split]} ({data}). Each model is judged on the movies that have its modality; F1 is at the
thresholds in `calibration.json`.

{_table(predictor, figures)}

## Data

Trained on {data}: {config.folds} folds, whose models are averaged. {_rare(predictor, figures)}

## Limits

- Genres are opinions of the source that labelled the training movies; mistakes and gaps in its labels are learned.
- Movies unlike the training movies, such as other languages, decades or kinds of posters, get poorer predictions
  than the figures say. Unknown words are ignored: `mmgc predict --format=json` counts them.
- A movie with neither {" nor ".join(has)} gets the genres' frequencies among the training movies.

## Calibration

Probabilities are calibrated by Platt scaling for each genre, fitted to out-of-fold predictions of the training
movies, as are the thresholds, which maximise F1 of each genre. Expected calibration error:
{figures[fusion.FUSION].get("ece", math.nan):.3f} for fusion.

## Licences

The model: `{about.license}`{_OTHER if about.license == "other" else ""}. The code: Apache 2.0.
{"Pretrained weights that are part of it:" if of_weights else "No pretrained weights are part of it."}

{chr(10).join(of_weights)}
""".rstrip()
        + "\n"
    )


_OTHER = ", since its owner has named no licence. Ask the owner before you use it"


def _modalities(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the modalities that the encoders look at."""
    used = {registry.modality(config, name) for name in config.encoders}
    return tuple(modality for modality in MODALITIES if modality in used)


def _table(predictor: Predictor, figures: Mapping) -> str:
    titles = fusion.titles(predictor.config)
    shown = [f for f in _FIGURES if figures[fusion.FUSION].get(f[0]) is not None]
    lines = [
        "| model | movies | " + " | ".join(title for _, title, _ in shown) + " |",
        "| --- |" + " ---: |" * (len(shown) + 1),
    ]
    for model in predictor.models:
        if model not in figures:
            continue
        of_model = figures[model]
        cells = ["-" if of_model.get(n) is None else f"{of_model[n]:.3f}" for n, _, _ in shown]
        name = titles[model] if model == fusion.FUSION else f"{titles[model]}: `{model}`"
        lines.append(f"| {name} | {of_model['movies']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rare(predictor: Predictor, figures: Mapping) -> str:
    """Names the genres with the fewest judged movies."""
    positives = {
        genre: of_genre["positives"]
        for genre, of_genre in figures[fusion.FUSION].get("per_genre", {}).items()
    }
    rarest = sorted(positives, key=positives.get)[:3]
    if not rarest:
        return ""
    listed = ", ".join(f"{genre} ({positives[genre]:,})" for genre in rarest)
    return f"The rarest genres among the judged movies, whose figures say the least: {listed}."
