"""Scores a finished run on a labelled table: figures with confidence intervals.

    mmgc score --workdir=runs/demo --movies=test.csv --posters=FOLDER
    mmgc score --workdir=runs/demo --movies=test.parquet --output=scores/test --stage=plot,fusion
    mmgc score --workdir=runs/own --movies=test.tsv --columns=plot=Inhalt,genres=Genres

The table is read as by `mmgc predict`, and needs a column of genres, too. Genres are matched by
name with those of the run; those that the run does not know are listed and left out. --genres names
genres that are called otherwise, such as --genres="Science Fiction=Sci-Fi".

The folder of --output gets results.txt, results.json, figures/, and predictions.npz with the
prediction for each movie. Intervals are of 95 %, by percentile bootstrap over the movies.
"""

import logging
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from mmgc_jax import command_line
from mmgc_jax.runtime.errors import InputError

# Imported by the functions that need them, so that --help and wrong flags are answered at once.
if TYPE_CHECKING:
    import ml_collections

    from mmgc_jax.data.table import MovieTable
    from mmgc_jax.predictor import Predictor
    from mmgc_jax.runtime.files import Path

logger = logging.getLogger("mmgc_jax")


def define_flags(values: flags.FlagValues) -> None:
    def text(name: str, meaning: str, default: str | None = None) -> None:
        flags.DEFINE_string(name, default, meaning, flag_values=values)

    def number(name: str, meaning: str, default: int, least: int) -> None:
        flags.DEFINE_integer(name, default, meaning, lower_bound=least, flag_values=values)

    text("workdir", "Working directory of a finished experiment.")
    text("movies", "Table of movies with genres: CSV, TSV, JSON lines or Parquet.")
    text("posters", "Folder of the table's posters: <id>.jpg, or another suffix of images.")
    text("output", "Folder to write to. Without it, WORKDIR/scores/NAME OF THE TABLE.")
    command_line.define_list(
        values, "stage", "Models to score, such as plot,fusion. Without it, all."
    )
    command_line.define_list(
        values,
        "columns",
        "Columns of the table that have unusual names, such as plot=Inhalt,id=Nummer.",
    )
    command_line.define_list(
        values,
        "genres",
        "Genres that the table calls otherwise than the experiment, such as Science "
        "Fiction=Sci-Fi; with an empty name they are left out.",
    )
    text("split", "Score only the movies of this split: train, validation or test of the table.")
    number("resamples", "Number of resamples of the movies, for the intervals.", 1000, 100)
    number("seed", "Seed of the resamples.", 0, 0)
    command_line.define_encoder_modules(values)


def main(values: flags.FlagValues, arguments: list[str]) -> None:
    from mmgc_jax.encoders import registry
    from mmgc_jax.predictor import Predictor
    from mmgc_jax.runtime.files import as_path

    registry.import_modules(values.encoder_modules)
    predictor = Predictor.load(values.workdir)
    table = read_table(values.movies, predictor.config.data, values.columns, values.posters)
    name = re.sub(r"[^\w.-]+", "_", pathlib.PurePosixPath(values.movies).name.split(".")[0])
    folder = as_path(values.workdir) / "scores" / (name or "table")
    score(
        predictor,
        table,
        workdir=as_path(values.workdir),
        output=as_path(values.output) if values.output else folder,
        models=values.stage,
        genres=values.genres,
        split=values.split,
        resamples=values.resamples,
        seed=values.seed,
    )


def read_table(
    movies, data: "ml_collections.ConfigDict", columns: Sequence[str], posters: str | None
) -> "MovieTable":
    """Reads a labelled table; addresses are copied to this machine.

    Args:
      movies: path or address of the table.
      data: the section `data` of the experiment's config.
      columns: assignments such as `plot=Inhalt`.
      posters: folder of posters, or None.

    Raises:
      InputError: if the table cannot be read.
    """
    from mmgc_jax.data import table
    from mmgc_jax.runtime.remote import local_copy

    settings = table.TableSettings.to_predict(data, columns, local_copy(posters or ""))
    return table.read(local_copy(movies), settings, labelled=True)


def score(
    predictor: "Predictor",
    table: "MovieTable",
    *,
    workdir: "Path",
    output: "Path",
    models: Sequence[str] = (),
    genres: Sequence[str] = (),
    split: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Scores models on a table, writes results, figures and predictions, and prints the figures.

    Args:
      predictor: the experiment.
      table: labelled movies.
      workdir: the working directory of the experiment.
      output: folder to write to.
      models: names of models; empty: all.
      genres: renamings of the table's genres, such as `Science Fiction=Sci-Fi`.
      split: score only the movies of this split of the table; None: all.
      resamples: number of resamples, for the intervals.
      seed: of the resamples.

    Returns:
      The content of results.json, with NaN in place of null.

    Raises:
      InputError: if a model does not exist, no movie can be scored, or the folder cannot be written
        to.
    """
    import json

    from mmgc_jax import scoring
    from mmgc_jax.encoders import fusion
    from mmgc_jax.evaluation import bootstrap, report, results, saved, score_tables
    from mmgc_jax.runtime.files import disk_error, relative_to_here, write_text

    models = _models(predictor, models)
    if (output / "checkpoints").exists():
        raise InputError(
            f"--output={output} is the working directory of an experiment, whose results would be "
            "overwritten. Choose another folder."
        )
    config = predictor.config
    renamed = scoring.parse_renamings(genres, config.data.get("genres", ()))
    labels = scoring.match_labels(table, predictor.genres, renamed, split)
    scored = scoring.predict(predictor, table, labels, models)
    notes = list(labels.notes)
    trained = saved.load(workdir / saved.FILE)
    if not table.has_ids:
        notes.append(
            "The table has no ids, so it is not known which movies the experiment was trained on. "
            "--columns=id=NAME names their column."
        )
    elif trained is not None and (seen := scoring.seen_in_training(scored.saved, trained)):
        notes.append(
            f"{seen:,} of the {len(labels.rows):,} movies have the id and the genres of a movie "
            "that the experiment was trained on. Figures of training movies are too good."
        )
        logger.warning("%s", notes[-1])

    predictions = scored.predictions()
    figures = {
        name: bootstrap.with_intervals(
            of_model,
            predictions[name].labels,
            predictions[name].probabilities,
            predictions[name].thresholds,
            resamples,
            seed,
        )
        for name, of_model in results.evaluate_predictions(predictions, predictor.genres).items()
    }
    titles = {name: title for name, title in fusion.titles(config).items() if name in models}
    if without := [title for name, title in titles.items() if not figures[name]["movies"]]:
        if len(without) == len(titles):
            raise InputError(
                f"No movie of the table has the modality of {' or '.join(without)}. "
                "--columns=plot=NAME names a column of plots, --columns=poster=NAME one of posters."
            )
        notes.append(f"Left out, since no movie has the modality: {', '.join(without)}.")
    shown = notes  # on the terminal
    if labels.unlabelled:
        notes = [*notes, f"Movies without a genre, which are left out: {labels.unlabelled:,}."]
        if split is not None:  # otherwise a warning has told the same number
            shown = notes
    replaces = (output / "results.json").is_file()
    content = {
        saved.SCORED: figures,
        "intervals": {"level": bootstrap.LEVEL, "resamples": resamples, "seed": seed},
        "notes": notes,
    }
    try:
        write_text(output / "config.json", config.to_json(indent=2))
        write_text(output / "inputs.json", json.dumps({"movies": saved.fingerprint(scored.saved)}))
        saved.save(output / saved.FILE, scored.saved)
        report.write_scores(
            output, content, predictions, predictor.genres, config.fusion.encoders, titles, notes
        )
    except OSError as error:
        reason = disk_error(error) or error.strerror or error
        raise InputError(
            f"{output} cannot be written to: {reason}. --output=FOLDER names another folder."
        ) from error
    print(score_tables.screen(figures, titles, shown))
    folder = relative_to_here(output)
    print(f"\nAll tables:  {folder / 'results.txt'}\nFigures:     {folder / 'figures'}")
    if replaces:
        print("They replace the earlier scores in this folder.")
    return content


def _models(predictor: "Predictor", wanted: Sequence[str]) -> list[str]:
    """Returns the names of the models to score, in the order of tables."""
    for name in wanted:
        command_line.require_model(name, predictor.models)
    return [name for name in predictor.models if not wanted or name in wanted]


def start(argv: Sequence[str] | None = None) -> None:
    """Runs `main` with the flags of a command line; None takes that of the process."""
    command_line.run(__doc__, define_flags, main, argv, required=("workdir", "movies"))


if __name__ == "__main__":
    start()
