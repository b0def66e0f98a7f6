"""Text tables of an experiment's figures."""

import math
import pathlib

from etils import epath

from mmgc_jax.data import builder
from mmgc_jax.data.movies import GENRES
from mmgc_jax.evaluation import tables

TITLES = {"plot": "Plot (LSTM)", "poster": "Poster (VGG16, colour)", "fusion": "Fusion"}

# The demo's table, as docs/getting_started.md shows it.
DEMO_TITLES = {
    "plot": "Plot (LSTM)",
    "poster": "Poster (small VGG, colour)",
    "poster_grey": "Poster (small VGG, grey)",
    "fusion": "Fusion",
}
DEMO = """\
test                         movies  AUC macro AUC steady        mAP   F1 micro   F1 macro  best AUC
movies that have what the model reads
  Plot (LSTM)                   956      0.800      0.881      0.556      0.620      0.457     0.830
  Poster (small VGG, colour)    859      0.729      0.772      0.372      0.223      0.177     0.833
  Poster (small VGG, grey)      859      0.658      0.701      0.284      0.133      0.100     0.833
  Fusion                       1000      0.917      0.937      0.708      0.685      0.613     0.974
movies with both plot and poster
  Plot (LSTM)                   815      0.799      0.881      0.555      0.621      0.458
  Poster (small VGG, colour)    815      0.730      0.771      0.373      0.222      0.176
  Poster (small VGG, grey)      815      0.659      0.700      0.285      0.134      0.101
  Fusion                        815      0.928      0.948      0.727      0.714      0.644
best AUC: macro AUC with the true probabilities, which are known of made-up movies.
Fusion gains 0.129 macro AUC over the best single model, Plot (LSTM), on the 815 movies with both."""  # noqa: E501
DEMO_F1 = """\
test, F1                                                  at 0.5      at the threshold of each genre
                                micro    macro weighted  samples    micro    macro weighted  samples
movies that have what the model reads
  Plot (LSTM)                   0.620    0.457    0.466    0.559    0.522    0.616    0.622    0.481
  Fusion                        0.685    0.613    0.618    0.622    0.694    0.718    0.721    0.667
movies with both plot and poster
  Plot (LSTM)                   0.120    0.957    0.966    0.059    0.022    0.116    0.122    0.981
  Fusion                        0.185    0.113    0.118    0.122    0.194    0.218    0.221    0.167"""  # noqa: E501
COLUMNS = ("auc_macro", "auc_steady", "map", "f1_micro", "f1_macro", "best_reachable_auc_macro")
F1_COLUMNS = [
    f"f1_{average}{at}"
    for at in ("", "_tuned")
    for average in ("micro", "macro", "weighted", "samples")
]


def test_sentences_have_a_name_for_each_source():
    assert tables.SOURCES.keys() == set(builder.SOURCES)


def read(lines, titles, first_column, columns):
    """The figures that the rows of a table show."""
    names = [*titles, *(f"{name}_both" for name in titles)]
    figures = {}
    for name, line in zip(names, (line for line in lines if line.startswith("  ")), strict=True):
        assert line[:first_column].strip() == titles[name.removesuffix("_both")]
        figures[name] = dict(zip(columns, map(float, line[first_column:].split())))
    return figures


def test_the_table_of_the_demo():
    figures = read(DEMO.splitlines(), DEMO_TITLES, 28, ("movies", *COLUMNS))
    for row in figures.values():
        row |= {"movies": int(row["movies"]), "genres_counted": 24, "genres_steady": 24}
    figures["fusion"]["per_genre"] = dict.fromkeys(GENRES)
    assert tables.table("test", figures, DEMO_TITLES) == DEMO
    # The screen fits the terminal without shortening these titles.
    screen = tables.final_screen({"test": figures}, DEMO_TITLES, "test", pathlib.Path("runs/demo"))
    assert screen.startswith(f"{DEMO}\nF1 counts genres with")


def test_the_f1_table_of_the_demo():
    titles = {"plot": "Plot (LSTM)", "fusion": "Fusion"}
    lines = DEMO_F1.splitlines()
    figures = read([lines[0], *lines[2:]], titles, 28, F1_COLUMNS)
    for name, row in figures.items():
        row["movies"] = 9 if name.endswith("_both") else 10
    assert tables.f1_table("test", figures, titles) == DEMO_F1


def figures(auc, movies=100):
    names = ("auc_steady", "map", "f1_micro", "f1_macro")
    counts = {"movies": movies, "genres_counted": 23, "genres_steady": 23}
    return dict.fromkeys(names, 0.5) | counts | {"auc_macro": auc}


def results(plot, poster, fusion):
    """One split; on the movies with both modalities the AUCs are these."""
    return {
        "plot": figures(0.95), "poster": figures(0.95), "fusion": figures(0.5, 120),
        "plot_both": figures(plot, 80), "poster_both": figures(poster, 80),
        "fusion_both": figures(fusion, 80),
    }  # fmt: skip


def last_line(*aucs):
    return tables.table("test", results(*aucs), TITLES).splitlines()[-1]


def test_the_last_line_is_the_gain_on_the_movies_with_both():
    assert last_line(0.88, 0.75, 0.91) == (
        "Fusion gains 0.030 macro AUC over the best single model, Plot (LSTM), on the 80 movies "
        "with both."
    )
    assert last_line(0.7, 0.8, 0.78) == (
        "Fusion loses 0.020 macro AUC against the best single model, Poster (VGG16, colour), on "
        "the 80 movies with both."
    )


def test_a_gain_that_rounds_to_nothing_is_none():
    for fusion in (0.88, 0.8804, 0.8796):
        assert last_line(0.88, 0.75, fusion) == (
            "Fusion neither gains nor loses against the best single model, Plot (LSTM), on the 80 "
            "movies with both."
        )


def test_a_part_without_movies_is_left_out():
    split = results(math.nan, math.nan, math.nan)
    for name in TITLES:
        split[f"{name}_both"]["movies"] = 0
    assert tables.parts(split, list(TITLES)) == tables.parts(split, [])
    assert "movies with both" not in tables.table("test", split, TITLES)


def test_a_gain_that_is_undefined_is_not_shown():
    assert last_line(math.nan, math.nan, math.nan) == (
        "No genre has a positive and a negative among the movies with both, so what fusion gains "
        "is not known."
    )
    without = results(math.nan, math.nan, math.nan)
    without["fusion_both"]["movies"] = 0
    assert tables.table("test", without, TITLES).splitlines()[-1] == (
        "No movie has both, so what fusion gains is not known."
    )


def test_another_fusion_is_not_a_single_model():
    titles = TITLES | {"fusion_gated": "Fusion: gated"}
    split = results(0.88, 0.75, 0.91)
    split |= {"fusion_gated": figures(0.99), "fusion_gated_both": figures(0.99, 80)}
    lines = tables.table("test", split, titles).splitlines()
    assert "gains 0.030 macro AUC over the best single model, Plot (LSTM)," in lines[-1]
    assert [line[2:16].strip() for line in lines[2:6]] == [
        "Plot (LSTM)", "Poster (VGG16,", "Fusion", "Fusion: gated",
    ]  # fmt: skip


def test_rows_follow_the_titles():
    names = ["poster", "plot", "fusion"]
    titles = {name: TITLES[name] for name in names} | {"tabular": "Budget"}  # without figures
    lines = tables.table("test", results(0.88, 0.75, 0.91), titles).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["Poster", "Plot", "Fusion"]
    assert not any("Budget" in line for line in lines)


def test_the_mean_over_seeds_has_a_column_of_deviations():
    of_seeds = {
        name: row | {"auc_macro_std": 0.0123} for name, row in results(0.88, 0.75, 0.91).items()
    }
    of_seeds["poster"]["genres_counted"] = 24
    lines = tables.table("cross_validation", of_seeds, TITLES, 3).splitlines()
    assert lines[0].split()[:5] == ["cross-validation", "movies", "AUC", "macro", "+-"]
    assert lines[2].split()[2:5] == ["100", "0.950", "0.012"]
    assert len({len(line) for line in lines if line.startswith(("cross", "  "))}) == 1  # aligned
    assert lines[-5:-1] == [
        "Macro averages and mAP are over 23 to 24 genres in each row: those with a positive and a "
        "negative movie.",
        "AUC steady is over 23 genres: those with at least 10 of both.",
        "Each movie is predicted by models that were not trained on it.",
        "Each figure is the mean over 3 seeds; +- is the standard deviation.",
    ]
    test = tables.table("test", of_seeds, TITLES, 3)
    assert "+-" in test.splitlines()[0] and "not trained on it" not in test


def test_cross_validation_of_one_run_has_no_deviations():
    text = tables.table("cross_validation", results(0.88, 0.75, 0.91), TITLES)
    assert "+-" not in text and "mean over" not in text
    assert "\nEach movie is predicted by models that were not trained on it.\n" in text


def test_genres_that_averages_leave_out_are_counted():
    split = results(0.88, 0.75, 0.91)
    split["fusion"]["per_genre"] = dict.fromkeys(GENRES)

    def notes(counted, steady):
        for row, *counts in zip(split.values(), counted, steady, strict=True):
            row["genres_counted"], row["genres_steady"] = counts
        return tables.table("test", split, TITLES).splitlines()[9:-1]

    all_24, which = [24] * 6, "those with a positive and a negative movie."
    assert notes(all_24, all_24) == []
    assert notes([23] * 6, [23] * 6) == [f"Macro averages and mAP are over 23 genres: {which}"]
    # Fewer movies have a poster, fewer still both.
    assert notes([24, 22, 24, 21, 21, 21], [20, 19, 20, 17, 17, 17]) == [
        f"Macro averages and mAP are over 21 to 24 genres in each row: {which}",
        "AUC steady is over 17 to 20 genres in each row: those with at least 10 of both.",
    ]
    assert notes(all_24, [22] * 6) == [
        "AUC steady is over 22 genres: those with at least 10 of both."
    ]

    split["poster"]["movies"] = 0
    assert notes([24, 0, 24, 24, 24, 24], [24, 0, 24, 24, 24, 24]) == []


def test_the_final_screen_shows_one_table_and_where_the_rest_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = {"test": results(0.88, 0.75, 0.91), "validation": {}}
    lines = tables.final_screen(split, TITLES, "test", tmp_path / "my runs").splitlines()
    table = tables.table("test", split["test"], TITLES).splitlines()
    assert lines[: len(table)] == table
    assert lines[len(table) :] == [
        "F1 counts genres with a probability of at least 0.5; mmgc predict uses each genre's own "
        "threshold.",
        "",
        "All tables:  my runs/results.txt",
        "Figures:     my runs/figures",
        "To predict:  mmgc predict --workdir='my runs' --plot=\"...\"",
    ]
    in_bucket = tables.final_screen(
        split, TITLES, "test", epath.Path("gs://bucket/run")
    ).splitlines()
    assert in_bucket[-3] == "All tables:  gs://bucket/run/results.txt"
    modules = ["my_encoder", "lab.posters"]
    foreign = tables.final_screen(split, TITLES, "test", tmp_path / "run", modules).splitlines()
    assert foreign[-1] == (
        "To predict:  mmgc predict --workdir=run --encoder_modules=my_encoder "
        '--encoder_modules=lab.posters --plot="..."'
    )


def test_the_final_screen_says_how_far_fusion_can_be_trusted(tmp_path):
    split = {"test": results(0.88, 0.75, 0.91)}
    note = tables.interval_note("test", 120, 0.4512, 0.5498)
    assert note == (
        "95 % interval of fusion's macro AUC: 0.451 to 0.550, by bootstrap over the 120 test "
        "movies."
    )
    lines = tables.final_screen(split, TITLES, "test", tmp_path, interval=note).splitlines()
    assert lines[lines.index("") - 1] == note
    for movies, low, high in ((1, math.nan, math.nan), (29, 0.4, 0.6), (100, 1.0, 1.0)):
        assert tables.interval_note("validation", movies, low, high) == (
            f"Too few validation movies for an interval of fusion's macro AUC: {movies}."
        )
    assert tables.interval_note("cross_validation", 7895, 0.9, 0.92).endswith(
        "by bootstrap over the 7895 training movies."
    )


def test_the_final_screen_fits_with_many_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split, titles = results(0.88, 0.75, 0.91), dict(TITLES)
    for number in range(40):
        name = f"fusion_{number}"
        titles[name] = f"Fusion {number}: " + "a long title " * number
        split |= {name: figures(0.5), f"{name}_both": figures(math.nan if number == 3 else 0.8)}
    split |= {name: row | {"best_reachable_auc_macro": 1.0} for name, row in split.items()}
    split["plot"] |= {"genres_steady": 17, "per_genre": dict.fromkeys(GENRES)}
    note = tables.interval_note("test", 120, 0.45, 0.55)
    text = tables.final_screen({"test": split}, titles, "test", tmp_path / "run", (), note)
    lines = text.splitlines()
    assert 37 < len(lines) <= 39 and max(map(len, lines)) <= 100
    assert any(line.startswith("AUC steady is over 17 to 23 genres") for line in lines)
    shown = [line[2:20].strip() for line in lines if line.startswith("  ")]
    assert f"{43 - len(shown) // 2} more models are in results.txt." in lines
    assert "Fusion" in shown and "Plot (LSTM)" in shown  # fusion and the best ones
    assert not any(title.startswith("Fusion 3:") for title in shown)  # undefined ones come last


def test_all_tables_begin_with_the_split_that_counts():
    of_split = with_f1(results(0.88, 0.75, 0.91))
    for row in of_split.values():
        row |= {"ece": 0.5, "ece_uncalibrated": 0.5}
    splits = dict.fromkeys(("cross_validation", "validation", "test"), of_split)
    parts = tables.all_tables(splits, {}, TITLES, "test", ["A note."]).split("\n\n")
    assert [part.split()[0] for part in parts] == [
        "test", "cross-validation", "validation", "test,", "test,", "A",
    ]  # fmt: skip
    alone = {"cross_validation": of_split}
    parts = tables.all_tables(alone, {}, TITLES, "cross_validation").split("\n\n")
    assert [part.split()[0] for part in parts] == [
        "cross-validation", "cross-validation,", "cross-validation,",
    ]  # fmt: skip


def test_calibration_errors_before_and_after():
    split = {"plot": {"ece_uncalibrated": 0.0321, "ece": 0.0123}}
    assert tables.calibration_table("test", split, TITLES) == (
        "test, calibration error        before    after\n"
        "  Plot (LSTM)                   0.032    0.012\n"
        "Platt scaling and thresholds are fitted out-of-fold, on other training movies."
    )


def test_auc_by_the_share_of_missing_modalities():
    missing = {"poster": {"fusion": [0.91, 0.9, 0.89, 0.885, 0.88]}}
    assert tables.missing_table(missing, TITLES) == (
        "posters missing, AUC macro         0%      25%      50%      75%     100%\n"
        "  Fusion                        0.910    0.900    0.890    0.885    0.880\n"
        "Cross-validation on the movies with both plot and poster."
    )


def tables_of(split, missing, titles):
    return (
        tables.table("test", split, titles),
        tables.f1_table("test", split, titles),
        tables.calibration_table("test", split, titles),
        tables.missing_table(missing, titles),
    )


def test_a_long_title_widens_the_first_column_of_every_table():
    title = "Poster (a network with a very long name)"
    width = len("  " + title)
    titles = TITLES | {"poster": title}
    split = results(0.88, 0.75, 0.91)
    for row in split.values():
        row |= dict.fromkeys([*F1_COLUMNS, "ece", "ece_uncalibrated"], 0.25)
    missing = {"poster": {"fusion": [0.75] * 5}}
    for wide_table, narrow_table in zip(
        tables_of(split, missing, titles), tables_of(split, missing, TITLES)
    ):
        for wide, narrow in zip(wide_table.splitlines(), narrow_table.splitlines(), strict=True):
            if narrow.startswith(("test", "  ", "posters missing")):
                assert wide[width:] == narrow[28:]
                assert wide[:width].strip() == narrow[:28].strip().replace(TITLES["poster"], title)


def test_all_tables_stand_in_one_text():
    split = results(0.88, 0.75, 0.91)
    for row in split.values():
        row |= dict.fromkeys([*F1_COLUMNS, "ece", "ece_uncalibrated"], 0.25)
    missing = {"poster": {"fusion": [0.75] * 5}}
    everything = {"validation": split, "test": split}
    text = tables.all_tables(everything, missing, TITLES, "test", ["One note.", "Another."])
    assert text.split("\n\n") == [
        tables.table("test", split, TITLES),
        tables.table("validation", split, TITLES),
        tables.f1_table("test", split, TITLES),
        tables.calibration_table("test", split, TITLES),
        tables.missing_table(missing, TITLES),
        "One note.",
        "Another.",
    ]
    without_missing = tables.all_tables(everything, {}, TITLES, "test")
    assert "missing" not in without_missing


def test_models_of_one_modality_have_one_part_and_no_movies_with_both():
    titles = {"plot": "Plot (LSTM)", "words": "Plot (bag of words)", "fusion": "Fusion"}
    split = {name: figures(0.8) for name in titles}
    split |= {f"{name}_both": row for name, row in split.items()}
    text = tables.table("test", split, titles)
    assert text.count("Fusion ") == 2 and "both" not in text
    assert text.endswith("against the best single model, Plot (LSTM), on the 100 movies.")
    del titles["words"], split["words"]
    assert "gains" not in tables.table("test", split, titles), "fusion of one model"
    assert "both" not in tables.f1_table("test", with_f1(split), titles)


def with_f1(split):
    return {name: row | dict.fromkeys(F1_COLUMNS, 0.5) for name, row in split.items()}
