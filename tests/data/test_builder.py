import io
import json
import logging
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from mmgc_jax.configs import default
from mmgc_jax.data import builder, movies, pipeline, posters
from mmgc_jax.errors import InputError
from tests.conftest import forty_movies, image_bytes, write_talk


def data_config(path="", **fields):
    """The `data` part of a config, by default for posters of 64 x 32 pixels."""
    config = default.get_config().data
    config.update({"path": str(path), "poster_height": 64, "poster_width": 32} | fields)
    return config


def synthetic_config(**arguments):
    arguments = {"train": 6, "validation": 3, "test": 3} | arguments
    return data_config(source="synthetic", synthetic=arguments)


def folder_of(dataset) -> pathlib.Path:
    return pathlib.Path(dataset.data_path)


def test_order_is_that_of_the_source(talk_folder, tmp_path):
    config = data_config(talk_folder)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
    read = list(movies.read_talk(str(talk_folder)))
    assert corpus.ids == [movie.id for movie in read]
    assert [corpus.plot(n) for n in range(len(read))] == [movie.plot or "" for movie in read]
    assert corpus.has_poster.tolist() == [movie.poster is not None for movie in read]
    np.testing.assert_array_equal(corpus.labels, [movies.to_labels(m.genres) for m in read])
    assert [record["title"].decode() for record in corpus.records] == [m.title for m in read]


def test_posters_are_stored_as_jpeg_of_the_models_size(talk_folder, tmp_path):
    config = data_config(talk_folder)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path / "shards"), config)
    for record, movie in zip(corpus.records, movies.read_talk(str(talk_folder)), strict=True):
        with Image.open(io.BytesIO(record["poster"])) as stored:
            assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (32, 64))
            pixels = np.asarray(stored).astype(int)
        expected = posters.decode(movie.poster, 64, 32) if movie.poster else 0
        assert np.abs(pixels - expected).max() <= 6


def test_without_tensorflow(tmp_path):
    """A package of that name, put in front of any real one, tells whether it is imported."""
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


class TestReuse:
    def test_a_second_build_finds_the_first(self, talk_folder, tmp_path, monkeypatch):
        config = data_config(talk_folder)
        first = builder.build(config, tmp_path / "shards")
        monkeypatch.setattr(posters, "decode", None)
        second = builder.build(config, tmp_path / "shards")
        assert folder_of(second) == folder_of(first)
        corpora = [pipeline.load_corpus(dataset, config) for dataset in (first, second)]
        assert corpora[0].ids == corpora[1].ids

    def test_every_change_gets_a_folder_of_its_own(self, talk_folder, tmp_path):
        rows, images = forty_movies()

        def build(**fields):
            return folder_of(builder.build(data_config(talk_folder, **fields), tmp_path / "shards"))

        folders = [build(), build(poster_height=32), build(poster_width=64)]
        write_talk(talk_folder, [(*rows[0][:3], "another plot", *rows[0][4:]), *rows[1:]], images)
        folders.append(build())
        write_talk(talk_folder, rows, images | {139: image_bytes(Image.new("RGB", (9, 9)))})
        folders.append(build())
        (talk_folder / "posters/139.jpg").unlink()
        assert build() == folders[0], "back to where it was"
        assert len(set(folders)) == len(folders)

    def test_the_same_content_elsewhere_is_the_same(self, talk_folder, tmp_path):
        copy = write_talk(tmp_path / "copy", *forty_movies())
        folders = [
            folder_of(builder.build(data_config(path), tmp_path / "shards"))
            for path in (talk_folder, copy)
        ]
        assert folders[0] == folders[1]

    def test_arguments_of_the_synthetic_corpus_count(self, tmp_path):
        datasets = [
            builder.build(synthetic_config(**changed), tmp_path) for changed in ({}, {"seed": 3})
        ]
        assert folder_of(datasets[0]) != folder_of(datasets[1])
        assert datasets[0].info.splits["train"].num_examples == 6


class TestBadPosters:
    """Of the forty movies 32 have a poster."""

    def spoil(self, folder, count):
        """Replaces the posters of the first movies; returns their indices."""
        found = sorted((folder / "posters").iterdir(), reverse=True)[:count]
        for number, file in enumerate(found):
            content = file.read_bytes()
            file.write_bytes((b"<html>", content[: len(content) // 2])[number % 2])
        return [file.stem for file in found]

    def test_they_are_listed_and_count_as_missing(self, talk_folder, tmp_path, caplog):
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
    """They come to light before anything is written."""

    @pytest.fixture
    def refused(self, tmp_path):
        def refused(config, reason):
            with pytest.raises(InputError, match=reason):
                builder.build(config, tmp_path / "shards")
            assert not (tmp_path / "shards").exists()

        return refused

    def test_unknown_source(self, refused):
        refused(data_config(source="imdb"), "'imdb': no such source. Known: talk, mmimdb, synth")

    def test_folder_that_is_not_there(self, tmp_path, refused):
        refused(data_config(tmp_path / "nowhere"), "nowhere")

    def test_bad_row(self, tmp_path, refused):
        rows = [*forty_movies()[0], ("140", "?", "T", "p", "['Drama']", "5")]
        folder = write_talk(tmp_path / "talk", rows, {})
        refused(data_config(folder), r"row 41 \(index 140\): the year")

    def test_bad_file_of_mmimdb(self, tmp_path, refused):
        folder = tmp_path / "mmimdb"
        (folder / "dataset").mkdir(parents=True)
        (folder / "split.json").write_text('{"train": ["1"], "dev": ["2"], "test": []}')
        (folder / "dataset/1.json").write_text(json.dumps({"plot": ["p"], "genres": ["Drama"]}))
        (folder / "dataset/2.json").write_text("{")
        refused(data_config(folder, source="mmimdb"), r"2\.json is not JSON")

    def test_no_movie_at_all(self, tmp_path, refused):
        refused(data_config(write_talk(tmp_path / "talk", [], {})), r"movies\.csv")


def test_synthetic_corpus_without_a_test_split(tmp_path):
    config = synthetic_config(test=0)
    corpus = pipeline.load_corpus(builder.build(config, tmp_path), config)
    assert [len(corpus.split[name]) for name in ("train", "validation")] == [6, 3]
