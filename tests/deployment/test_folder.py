"""Tests exported folders: their files, the loader without this package, and `Predictor.load`."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import yaml

from mmgc_jax import Movie, Predictor, export
from mmgc_jax.data import posters, synthetic
from mmgc_jax.deployment import card, folder, model
from mmgc_jax.encoders import plot_lstm
from mmgc_jax.runtime.errors import InputError
from tests import hub_server
from tests.deployment import plots_run

pytestmark = pytest.mark.slow

# What pip installs with jax, numpy and flatbuffers.
JAX = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers")


def alone(place, packages, script, tmp_path):
    """Runs a script with `model`, in an environment that has only some packages of this one."""
    site = tmp_path / "-".join(packages)
    site.mkdir(exist_ok=True)
    for entry in pathlib.Path(np.__file__).parents[1].iterdir():
        if re.split(r"[.-]", entry.name)[0].lower() in packages:
            (site / entry.name).symlink_to(entry)
    begin = f"""
        import json, sys
        sys.path[:0] = [{str(site)!r}, {str(place)!r}]
        import numpy as np
        from model import Model
        model = Model()
        """
    ran = subprocess.run(
        # -I leaves out the environment's variables, -S its site-packages.
        [sys.executable, "-I", "-S", "-c", textwrap.dedent(begin) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def movies(count=100):
    found = [movie for movie, _ in synthetic.generate(seed=5, train=count)["train"]]
    return [Movie(plot=movie.plot, poster=movie.poster) for movie in found]


def write_folder(workdir, output):
    folder.write(Predictor.load(workdir), workdir, output, card.About("Genres", "cc-by-4.0"))
    return output


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    return write_folder(finished.workdir, tmp_path_factory.mktemp("exported") / "genres")


def compare_alone(workdir, place, tmp_path, packages):
    """Asserts that the loader alone answers as `Predictor` does, for 100 movies and all models."""
    asked, given = movies(), []
    for number, movie in enumerate(asked):
        poster = tmp_path / f"{number}.jpg"
        if movie.poster:
            poster.write_bytes(movie.poster)
        given.append({"plot": movie.plot, "poster": str(poster) if movie.poster else None})
    (tmp_path / "movies.json").write_text(json.dumps([*given, {}]))
    alone(place, packages, f"""
        movies = json.load(open({str(tmp_path / "movies.json")!r}))
        np.savez({str(tmp_path / "found.npz")!r},
                 one=model(movies[3:4]), **{{name: model(movies, name) for name in model.models}})
        for name in model.models:
            np.save({str(tmp_path)!r} + f"/{{name}}.npy", model.decide(model(movies, name), name))
    """, tmp_path)  # fmt: skip
    predictor = Predictor.load(workdir)
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == {"one", *predictor.models}
        for name in predictor.models:
            wanted = predictor([*asked, Movie()], name)
            np.testing.assert_allclose(found[name], wanted, atol=1e-5)
            assert wanted[:-1].std(axis=0).max() > 1e-3  # they differ from movie to movie
            decided = np.load(tmp_path / f"{name}.npy")
            np.testing.assert_array_equal(decided, predictor.decide(found[name], name))
        np.testing.assert_allclose(found["one"], found["fusion"][3:4], atol=1e-6)


def test_the_loader_alone_answers_as_the_predictor(finished, exported, tmp_path):
    compare_alone(finished.workdir, exported, tmp_path, (*JAX, "pil", "pillow"))


def test_further_kinds_and_joint_fusion_on_plots_alone(tmp_path):
    of_plots = plots_run.write(tmp_path / "run")
    place = write_folder(of_plots, tmp_path / "exported")
    compare_alone(of_plots, place, tmp_path, (*JAX, "tokenizers"))
    metadata = yaml.safe_load((place / "README.md").read_text().split("---\n")[1])
    assert metadata["pipeline_tag"] == "text-classification"
    assert "multimodal" not in metadata["tags"]
    predictor, asked = Predictor.load(place), movies(10)
    np.testing.assert_allclose(predictor(asked), Predictor.load(of_plots)(asked), atol=1e-6)


def test_posters_as_pixels_need_no_pillow(finished, exported, tmp_path):
    movie = next(movie for movie in movies() if movie.poster and movie.plot)
    np.save(tmp_path / "pixels.npy", posters.decode_as_stored(movie.poster, 64, 32))
    printed = alone(exported, JAX, f"""
        pixels = np.load({str(tmp_path / "pixels.npy")!r})
        movies = [{{"plot": {movie.plot!r}, "poster": pixels}}, {{"plot": "a war"}}]
        print(json.dumps(model(movies).tolist()))
    """, tmp_path)  # fmt: skip
    wanted = Predictor.load(finished.workdir)([movie, Movie(plot="a war")])
    np.testing.assert_allclose(json.loads(printed), wanted, atol=1e-5)


def test_the_loader_is_a_command(exported):
    arguments = [sys.executable, "-I", exported / "model.py", "--plot=a war"]
    shown = subprocess.run([*arguments, "--model=plot"], capture_output=True, text=True)
    lines = [line.split() for line in shown.stdout.splitlines()]
    found = {genre: float(probability) for genre, probability, *_ in lines}
    predictor = Predictor.load(exported)
    wanted = dict(zip(predictor.genres, predictor([Movie(plot="a war")], "plot")[0]))
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert found == pytest.approx(wanted, abs=6e-4)
    refused = subprocess.run([*arguments, "--model=x"], capture_output=True, text=True)
    assert refused.returncode == 1 and "possible are plot, poster" in refused.stderr


def test_a_predictor_reads_the_folder(finished, exported):
    asked = movies(40)
    from_folder, from_workdir = Predictor.load(exported), Predictor.load(finished.workdir)
    for name in from_workdir.models:
        np.testing.assert_array_equal(from_folder(asked, name), from_workdir(asked, name))
    assert from_folder.notes(Movie(plot="zzz")) == from_workdir.notes(Movie(plot="zzz"))
    # It can be exported again.
    again = write_folder(exported, exported.with_name("again"))
    assert (again / "model.safetensors").read_bytes() == (
        exported / "model.safetensors"
    ).read_bytes()


def test_files(finished, exported):
    files = {file.relative_to(exported) for file in exported.rglob("*") if file.is_file()}
    names = {str(file) for file in files if file.suffix != ".pyc"}
    models = ("plot", "poster", "poster_grey", "fusion")
    assert names == {
        "README.md", "model.py", "model.json", "model.safetensors", "text.py", "posters.py",
        "config.json", "calibration.json", "genre_frequencies.json", "results.json",
        "encoders/plot/vocabulary.json", *(f"graphs/{name}.jax_export" for name in models),
    }  # fmt: skip
    assert (exported / "model.py").read_text() == pathlib.Path(model.__file__).read_text()
    # No path of this machine is published.
    places = [str(finished.data), str(finished.weights), str(finished.workdir)]
    for name in names:
        content = (exported / name).read_bytes()
        assert not [place for place in places if place.encode() in content], name
    assert json.loads((exported / "config.json").read_text())["data"]["path"] == "talk"


def test_the_card_has_the_figures_and_the_hubs_metadata(finished, exported):
    _, metadata, text = (exported / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(metadata)
    results = json.loads((finished.workdir / "results.json").read_text())
    split = next(name for name in ("test", "validation", "cross_validation") if name in results)
    figures = results[split]["fusion"]
    assert (metadata["license"], metadata["library_name"]) == ("cc-by-4.0", "mmgc_jax")
    assert "multimodal" in metadata["tags"] and "pipeline_tag" not in metadata
    (index,) = metadata["model-index"]
    (result,) = index["results"]
    assert (index["name"], result["dataset"]["split"]) == ("Genres", split)
    assert result["metrics"][0] == {
        "type": "roc_auc", "name": "AUC macro, Fusion", "value": round(figures["auc_macro"], 4)
    }  # fmt: skip
    row = next(line for line in text.splitlines() if line.startswith("| Fusion"))
    assert row.startswith(f"| Fusion | `fusion` | {figures['movies']} | {figures['auc_macro']:.3f}")
    assert "6 months" in text and "pip install jax numpy flatbuffers pillow" in text
    assert (
        "`poster`, VGG16: the licence of weights.npz" in text and "- The model: cc-by-4.0" in text
    )
    assert "{" not in text.replace('[{"plot"', "")


def test_other_folders_are_not_overwritten(finished, exported, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="has files that mmgc export did not write"):
        write_folder(finished.workdir, tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt is a file"):
        write_folder(finished.workdir, tmp_path / "notes.txt")
    shutil.copytree(exported, tmp_path / "old")
    (tmp_path / "old" / "graphs" / "old.jax_export").write_text("old")
    write_folder(finished.workdir, tmp_path / "old")
    assert not (tmp_path / "old" / "graphs" / "old.jax_export").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "old"]


def test_kinds_that_cannot_be_exported(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(plot_lstm.portable, "__name__", "portable")
    portable = plot_lstm.portable

    def of_test(*arguments):
        return portable(*arguments)._replace(open=write_folder)

    monkeypatch.setattr(plot_lstm, "portable", of_test)
    with pytest.raises(InputError, match=r"test_folder\.py, line \d+, imports mmgc_jax"):
        write_folder(finished.workdir, tmp_path / "x")
    monkeypatch.delattr(plot_lstm, "portable")
    with pytest.raises(InputError, match="plot cannot be exported: its kind 'plot_lstm' does not"):
        write_folder(finished.workdir, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_damaged_parameters_are_an_input_error(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        Predictor.load(tmp_path / "copy")(movies(3))


def test_the_command_uploads_and_predictors_load_from_the_hub(
    finished, tmp_path, monkeypatch, capsys
):
    flags = f"--workdir={finished.workdir}", f"--output={tmp_path / 'genres'}"
    with hub_server.running(monkeypatch, tmp_path / "cache") as hub:
        export.start(["mmgc export", *flags, "--push_to_hub=me/genres"])
        assert "Uploaded:    http://127.0.0.1" in capsys.readouterr().out
        assert hub.repositories["me/genres"]["private"]
        predictor = Predictor.load("hf://me/genres")
        asked = movies(10)
        np.testing.assert_array_equal(predictor(asked), Predictor.load(finished.workdir)(asked))
        assert 'Predictor.load("hf://me/genres")' in (tmp_path / "genres/README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=gs://b/x"], "a folder of this machine is needed"),
        (["--output=x", "--public"], "--push_to_hub=OWNER/NAME, which is missing"),
        (["--output=x"], "nowhere: there is no such folder"),
        ([], "--output is missing"),
    ],
)
def test_wrong_flags(flags, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        export.start(["mmgc export", f"--workdir={tmp_path / 'nowhere'}", *flags])
    assert exit.value.code == 2 and message in capsys.readouterr().err
