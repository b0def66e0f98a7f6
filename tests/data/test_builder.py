"""Tests building datasets: content of shards, reuse, bad posters and errors in the source."""

import io
import itertools
import json
import logging
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mmgc_jax.configs import default
from mmgc_jax.data import builder, mmimdb, movies, pipeline, posters, talk
from mmgc_jax.runtime.errors import InputError
from tests.conftest import forty_movies, image_bytes, write_talk
from tests.tiny import write_mmimdb_archive, write_mmimdb_folder


def data_config(path="", **fields):
    """Returns the section `data` of a config, with posters of 64 x 32 pixels by default."""
    config = default.get_config().data
    config.update({"path": str(path), "poster_height": 64, "poster_width": 32} | fields)
    return config


def synthetic_config(**arguments):
    arguments = {"train": 6, "validation": 3, "test": 3} | arguments
    return data_config(source="synthetic", synthetic=arguments)


def mmimdb_files():
    """Returns the files of a small MM-IMDb, in another order than the split lists them."""
    genres = {"genres": ["War", "News", "Drama"]}
    ids = [*map(str, range(1, 12)), "plotless", "posterless"]
    fields = {i: genres | {"plot": ["Short.", f"The longest plot of {i}."]} for i in ids}
    fields["plotless"]["plot"] = [" "]
    posters = {
        i: image_bytes(Image.new("RGB", (60, 90), (20 * number, 250 - 20 * number, 40)))
        for number, i in enumerate(ids)
        if i != "posterless"
    }
    train, dev, test = ["9", "2", "plotless", "11", "4", "1", "6"], ["8", "3"], ["7", "10", "5"]
    split = {"train": train, "dev": dev, "test": [*test, "posterless"]}
    files = {f"dataset/{i}.jpeg": poster for i, poster in posters.items()}
    files |= {"split.json": json.dumps(split).encode()}
    return files | {f"dataset/{i}.json": json.dumps(fields[i]).encode() for i in ids}


def folder_of(dataset) -> pathlib.Path:
    return pathlib.Path(dataset.data_path)


def test_movies_keep_the_order_of_the_source(talk_folder, tmp_path):
    config = data_config(talk_folder)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
    read = list(talk.read(str(talk_folder)))
    assert corpus.ids == [movie.id for movie in read]
    assert [corpus.plot(n) for n in range(len(read))] == [movie.plot or "" for movie in read]
    assert corpus.has_poster.tolist() == [movie.poster is not None for movie in read]
    expected = [[genre in movie.genres for genre in movies.GENRES] for movie in read]
    np.testing.assert_array_equal(corpus.labels, expected)
    assert [record["title"].decode() for record in corpus.records] == [m.title for m in read]


def test_leftovers_of_a_killed_run_are_deleted(talk_folder, tmp_path):
    config = data_config(talk_folder)
    written = folder_of(builder.build(config, tmp_path / "shards"))
    # The name of an unfinished folder in TFDS 4.9.10.
    written.rename(written.with_name("incomplete.OAW6JS_1.0.0"))
    assert folder_of(builder.build(config, tmp_path / "shards")) == written
    assert os.listdir(written.parent) == [written.name]


def test_posters_are_stored_as_jpeg_in_the_models_size(talk_folder, tmp_path):
    config = data_config(talk_folder)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
    for record, movie in zip(corpus.records, talk.read(str(talk_folder)), strict=True):
        with Image.open(io.BytesIO(record["poster"])) as stored:
            assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (32, 64))
            pixels = np.asarray(stored).astype(int)
        expected = posters.decode(movie.poster, 64, 32) if movie.poster else 0
        assert np.abs(pixels - expected).max() <= 6


def test_without_tensorflow(tmp_path):
    """A fake package, first on the path, creates a file if it is imported."""
    (tmp_path / "tensorflow").mkdir()
    witness = tmp_path / "imported"
    (tmp_path / "tensorflow/__init__.py").write_text(
        f"open({str(witness)!r}, 'w').close()\nraise ImportError('not wanted')\n"
    )
    story = textwrap.dedent("""
        import sys
        from mmgc_jax.data import pipeline
        from tests.data.test_builder import builder, synthetic_config
        config = synthetic_config()
        corpus = pipeline.load_corpus(builder.build(config, sys.argv[1]), config)
        examples = pipeline.PosterExamples(corpus.records, 64, 32)
        (batch,) = pipeline.iterate(pipeline.Batches(examples, corpus.labels, range(3), 3))
        assert batch["images"].shape == (3, 64, 32, 3)
        assert "tensorflow" not in sys.modules
        print("built")
    """)
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", story, str(tmp_path / "shards")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("built\n")
    assert not witness.exists()


def test_tfds_is_silent_for_any_caller(tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    for _ in ("writes shards", "reuses them"):
        builder.build(synthetic_config(), tmp_path)
    assert [r.message for r in caplog.records if not r.name.startswith("mmgc_jax")] == []
    printed = capfd.readouterr()
    assert printed.out == "" and "ownloading" not in printed.err
    # After it, absl's logger is as it was.
    logging.getLogger("absl").warning("of others")
    assert "of others" in caplog.messages
    assert not logging.getLogger("absl").filters


@pytest.mark.parametrize("level, shown", [("warning", False), ("error", True)])
def test_only_errors_of_tfds_are_shown(caplog, level, shown):
    with builder._without_warnings_of_tfds():
        logging.getLogger("absl").handle(
            logging.LogRecord(
                "absl", getattr(logging, level.upper()), tfds.__file__, 1, "by TFDS", (), None
            )
        )
        logging.getLogger("absl").warning("by others")
    assert caplog.messages == ["by TFDS"] * shown + ["by others"]


class TestReuse:
    def test_a_second_build_reuses_the_shards(self, talk_folder, tmp_path, monkeypatch):
        config = data_config(talk_folder)
        first = builder.build(config, tmp_path / "shards")
        monkeypatch.setattr(posters, "decode", None)
        second = builder.build(config, tmp_path / "shards")
        assert folder_of(second) == folder_of(first)
        corpora = [pipeline.load_corpus(dataset, config) for dataset in (first, second)]
        assert corpora[0].ids == corpora[1].ids

    def test_every_change_gets_a_separate_folder(self, talk_folder, tmp_path):
        rows, images = forty_movies()

        def build(**fields):
            return folder_of(builder.build(data_config(talk_folder, **fields), tmp_path / "shards"))

        folders = [build(), build(poster_height=32), build(poster_width=64)]
        write_talk(talk_folder, [(*rows[0][:3], "another plot", *rows[0][4:]), *rows[1:]], images)
        folders.append(build())
        write_talk(talk_folder, rows, images | {139: image_bytes(Image.new("RGB", (9, 9)))})
        folders.append(build())
        (talk_folder / "posters/139.jpg").unlink()
        assert build() == folders[0], "the content is the original one again"
        assert len(set(folders)) == len(folders)

    def test_the_same_content_elsewhere_shares_a_folder(self, talk_folder, tmp_path):
        copy = write_talk(tmp_path / "copy", *forty_movies())
        folders = [
            folder_of(builder.build(data_config(path), tmp_path / "shards"))
            for path in (talk_folder, copy)
        ]
        assert folders[0] == folders[1]

    def test_arguments_of_the_synthetic_corpus_change_the_folder(self, tmp_path):
        datasets = [
            builder.build(synthetic_config(**changed), tmp_path) for changed in ({}, {"seed": 3})
        ]
        assert folder_of(datasets[0]) != folder_of(datasets[1])
        assert datasets[0].info.splits["train"].num_examples == 6


class TestBadPosters:
    """Of the forty movies, 32 have a poster."""

    def spoil(self, folder, count):
        """Damages the posters of the first movies; returns their indices."""
        found = sorted((folder / "posters").iterdir(), reverse=True)[:count]
        for number, file in enumerate(found):
            content = file.read_bytes()
            file.write_bytes((b"<html>", content[: len(content) // 2])[number % 2])
        return [file.stem for file in found]

    def test_they_are_logged_and_count_as_missing(self, talk_folder, tmp_path, caplog):
        bad = self.spoil(talk_folder, 3)
        config = data_config(talk_folder, max_bad_fraction=3 / 32)
        for _ in ("built", "found"):
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="mmgc_jax.data.builder"):
                dataset = builder.build(config, tmp_path / "shards")
            lines = [line for line in caplog.messages if line.startswith("Unreadable poster")]
            assert len(lines) == 3
            assert f"{bad[0]}: not an image" in lines[0]
            assert f"{bad[1]}: " in lines[1] and "runcated" in lines[1]
        corpus = pipeline.load_corpus(dataset, config)
        assert corpus.has_poster.sum() == 29
        assert not corpus.has_poster[[corpus.ids.index(movie_id) for movie_id in bad]].any()

    def test_too_many_stop_the_run(self, talk_folder, tmp_path):
        bad = self.spoil(talk_folder, 3)
        config = data_config(talk_folder, max_bad_fraction=2 / 32)
        for _ in ("built", "found"):
            with pytest.raises(InputError) as caught:
                builder.build(config, tmp_path / "shards")
            message = str(caught.value)
            assert "3 of 32 posters" in message and str(talk_folder) in message
            assert "config.data.max_bad_fraction" in message
            assert f"The first: {bad[0]}: not an image" in message

    def test_a_source_without_posters(self, tmp_path):
        rows, _ = forty_movies()
        config = data_config(write_talk(tmp_path / "talk", rows, {}), max_bad_fraction=0.0)
        corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
        assert not corpus.has_poster.any()


class TestMistakesInTheSource:
    """All of these are reported before anything is written."""

    @pytest.fixture
    def refused(self, tmp_path):
        def refused(config, reason):
            with pytest.raises(InputError, match=reason):
                builder.build(config, tmp_path / "shards")
            assert not (tmp_path / "shards").exists()

        return refused

    def test_unknown_source(self, refused):
        refused(
            data_config(source="imdb"), "'imdb': no such source. Known: talk, table, mmimdb, synth"
        )

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("source", None),
            ("path", None),
            *itertools.product(("poster_height", "poster_width"), (0, -64, None, 65_501)),
            *(("max_bad_fraction", value) for value in (-0.1, 1.5, None, float("nan"))),
        ],
    )
    def test_invalid_field(self, talk_folder, refused, field, value):
        config = data_config(talk_folder)
        config.update({field: value})
        refused(config, rf"config\.data\.{field} is {value!r}")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"seed": -1}, "seed is -1, not a whole number of at least 0"),
            ({"train": -5}, "train is -5, not"),
            ({"test": None}, "test is None, not"),
            ({"validation": 1.5}, r"validation is 1\.5, not"),
            ({"trian": 5}, "'trian'.* seed, train, validation and test"),
            ({"train": 0}, r"config\.data\.synthetic\.train is 0: no movies to train on"),
        ],
    )
    def test_invalid_argument_of_the_synthetic_corpus(self, refused, arguments, reason):
        refused(synthetic_config(**arguments), reason)

    def test_arguments_of_the_synthetic_corpus_must_be_a_section(self, refused):
        config = data_config(source="synthetic")
        config.synthetic = None
        refused(config, r"config\.data\.synthetic is None, not a section")

    def test_missing_folder(self, tmp_path, refused):
        refused(data_config(tmp_path / "nowhere"), "nowhere")

    def test_bad_row(self, tmp_path, refused):
        rows = [*forty_movies()[0], ("140", "", "T", "p", "['Drama'", "5")]
        folder = write_talk(tmp_path / "talk", rows, {})
        refused(data_config(folder), "line 42: genres is")

    @pytest.mark.parametrize("write", [write_mmimdb_folder, write_mmimdb_archive])
    def test_bad_file_of_mmimdb(self, tmp_path, refused, write):
        files = mmimdb_files() | {"dataset/3.json": b"{"}
        refused(data_config(write(tmp_path / "mmimdb", files), source="mmimdb"), r"3\.json is not")

    def test_truncated_archive(self, tmp_path, refused):
        archive = write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", mmimdb_files())
        archive.write_bytes(archive.read_bytes()[:-20])
        refused(data_config(archive, source="mmimdb"), r"mmimdb\.tar\.gz is not a complete")

    def test_no_movies_to_train_or_validate_on(self, tmp_path, refused):
        files = mmimdb_files() | {"split.json": b'{"train": ["1"], "dev": [], "test": ["2"]}'}
        path = write_mmimdb_folder(tmp_path / "dev", files)
        refused(data_config(path, source="mmimdb"), "no movies to validate on")
        files = mmimdb_files() | {"split.json": b'{"train": [], "dev": ["1"], "test": ["2"]}'}
        refused(data_config(write_mmimdb_folder(tmp_path / "m", files), source="mmimdb"), "split")

    def test_no_movies_at_all(self, tmp_path, refused):
        refused(data_config(write_talk(tmp_path / "talk", [], {})), r"movies\.csv")


def test_synthetic_corpus_without_a_test_split(tmp_path):
    config = synthetic_config(test=0)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path), config)
    assert [len(corpus.split[name]) for name in ("train", "validation")] == [6, 3]


class TestMmImdb:
    SIZES = {"train": 6, "validation": 2, "test": 3}  # noqa: RUF012 (not changed)

    @pytest.fixture
    def archive(self, tmp_path):
        return write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", mmimdb_files())

    def records(self, dataset):
        return {
            split: [dict(record) for record in source]
            for split, source in dataset.as_data_source(
                decoders={"poster": tfds.decode.SkipDecoding()}
            ).items()
        }

    def test_movies_keep_the_order_of_the_split_not_of_the_archive(self, archive, tmp_path):
        config = data_config(archive, source="mmimdb")
        corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
        of_split = json.loads(mmimdb_files()["split.json"])
        for ours, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
            listed = [i for i in of_split[theirs] if i not in ("plotless", "posterless")]
            assert [corpus.ids[row] for row in corpus.split[ours]] == listed
        assert len(corpus.genres) == 23 and corpus.labels.shape == (11, 23)
        assert corpus.has_plot.all() and corpus.has_poster.all()
        row = corpus.ids.index("2")
        assert [corpus.genres[g] for g in np.flatnonzero(corpus.labels[row])] == ["Drama", "War"]

    def test_archive_and_folder_give_the_same_records(self, archive, tmp_path):
        folder = write_mmimdb_folder(tmp_path / "mmimdb", mmimdb_files())
        datasets = [
            builder.build(data_config(path, source="mmimdb"), tmp_path / "shards")
            for path in (archive, folder)
        ]
        found = [self.records(dataset) for dataset in datasets]
        assert {split: len(records) for split, records in found[0].items()} == self.SIZES
        for split in self.SIZES:
            for one, other in zip(found[0][split], found[1][split], strict=True):
                assert one.keys() == other.keys()
                for name in one:
                    np.testing.assert_array_equal(one[name], other[name])

    def test_counts_of_movies_left_out_are_stored(self, archive, tmp_path):
        for _ in ("built", "found"):
            dataset = builder.build(data_config(archive, source="mmimdb"), tmp_path / "shards")
            assert dataset.info.metadata["left_out"] == {"no plot": 1, "no poster": 1}
            assert dataset.info.metadata["dropped_genres"] == 11
            assert dataset.info.metadata["posters"] == 11

    def test_a_poster_that_cannot_be_decoded_counts_as_missing(self, tmp_path):
        files = mmimdb_files() | {"dataset/2.jpeg": b"<html>"}
        archive = write_mmimdb_archive(tmp_path / "mmimdb.tar.gz", files)
        config = data_config(archive, source="mmimdb", max_bad_fraction=0.2)
        dataset = builder.build(config, tmp_path / "shards")
        corpus = pipeline.load_corpus(dataset, config)
        assert corpus.has_poster.sum() == 10 and not corpus.has_poster[corpus.ids.index("2")]
        assert dataset.info.metadata["bad_posters"] == ["2: not an image of a known format"]

    def test_existing_shards_are_reused_without_reading_the_archive(
        self, archive, tmp_path, monkeypatch
    ):
        config = data_config(archive, source="mmimdb")
        first = builder.build(config, tmp_path / "shards")
        monkeypatch.setattr(mmimdb, "read", None)
        assert folder_of(builder.build(config, tmp_path / "shards")) == folder_of(first)

    def test_the_archive_is_read_once_for_the_texts_and_once_per_split(
        self, archive, tmp_path, monkeypatch
    ):
        opened, module = [], mmimdb.mmimdb_files
        of_archive = module._of_archive
        monkeypatch.setattr(
            module, "_of_archive", lambda *args: opened.append(args[0]) or of_archive(*args)
        )
        builder.build(data_config(archive, source="mmimdb"), tmp_path / "shards")
        assert opened == [archive] * 4

    def test_another_archive_gets_a_separate_folder(self, archive, tmp_path):
        config = data_config(archive, source="mmimdb")
        first = builder.build(config, tmp_path / "shards")
        files = mmimdb_files()
        files["dataset/1.json"] = files["dataset/1.json"].replace(b"plot of 1", b"plot of 8")
        write_mmimdb_archive(archive, files)
        assert folder_of(builder.build(config, tmp_path / "shards")) != folder_of(first)


class TestAsAnyTfdsDataset:
    """Checks of tfds.testing.DatasetBuilderTestCase, which itself needs TensorFlow."""

    @pytest.fixture
    def load(self, tmp_path):
        """Builds from the folder for manual downloads, as `tfds build` does."""

        def load(write, name):
            write(tmp_path / "manual" / name, mmimdb_files())
            dataset = tfds.builder("mm_imdb", data_dir=tmp_path, file_format="array_record")
            dataset.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
            )
            return tfds.data_source("mm_imdb", data_dir=tmp_path)

        return load

    @pytest.mark.parametrize(
        ("write", "name"),
        [(write_mmimdb_archive, "mmimdb.tar.gz"), (write_mmimdb_folder, "mmimdb")],
    )
    def test_build_and_read(self, load, write, name):
        splits = load(write, name)
        assert {split: len(source) for split, source in splits.items()} == TestMmImdb.SIZES
        for source in splits.values():
            for example in source:
                assert example.keys() == {
                    "id", "title", "plot", "poster", "has_poster", "genres",
                }  # fmt: skip
                assert example["poster"].shape == (256, 160, 3)
                assert example["plot"].decode() == f"The longest plot of {example['id'].decode()}."
                assert example["genres"] == [mmimdb.GENRES.index(g) for g in ("Drama", "War")]

    def test_nothing_in_manual_dir(self, tmp_path):
        dataset = tfds.builder("mm_imdb", data_dir=tmp_path, file_format="array_record")
        with pytest.raises(AssertionError, match=r"archive\.org/download/mmimdb"):
            dataset.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
            )

    def test_something_else_in_manual_dir(self, tmp_path):
        (tmp_path / "manual").mkdir()
        (tmp_path / "manual/other.zip").write_bytes(b"")
        dataset = tfds.builder("mm_imdb", data_dir=tmp_path, file_format="array_record")
        with pytest.raises(InputError, match=r"has no mmimdb\.tar\.gz and no mmimdb/"):
            dataset.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
            )

    def test_dataset_info(self, tmp_path):
        info = tfds.builder("mm_imdb", data_dir=tmp_path).info
        assert "25,959 movies" in info.description
        assert "1702.01992" in info.citation and "G{\\'o}mez" in info.citation
        assert info.homepage.startswith("http")
        assert info.features["genres"].feature.names == list(mmimdb.GENRES)
        assert info.config_name == "256x160"
        assert tfds.builder_cls("mm_imdb") is builder.MmImdb
