"""The flag --config: configs by name and path, fields that are set, and all fields described."""

import pathlib
import re
import shlex

import ml_collections
import pytest

from mmgc_jax import config_flag
from mmgc_jax.encoders import base, plot_lstm
from mmgc_jax.runtime.errors import InputError
from tests import tiny

CONFIGS = tiny.ROOT / "configs"


def mistake(*arguments) -> str:
    with pytest.raises(InputError) as raised:
        config_flag.load(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_names_are_those_of_the_experiments():
    files = {file.stem for file in CONFIGS.glob("*.py")} - {"__init__", "default"}
    assert config_flag.names() == sorted(files)
    lines = config_flag.summaries().splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:] if line[2] != " "] == config_flag.names()


@pytest.mark.parametrize("name", config_flag.names())
def test_a_name_and_its_path_are_the_same_config(name):
    by_name, by_path = config_flag.load(name), config_flag.load(str(CONFIGS / f"{name}.py"))
    assert by_name == by_path and by_name.is_locked


def test_a_name_is_found_from_any_folder_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "talk").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config_flag.load("talk").data.source == "talk"


def test_fields_are_set_in_each_form():
    config = config_flag.load(
        "talk",
        ["--config.folds=3", "-config.seed", "7", "--noconfig.poster.flip",
         "--config.encoders=('plot',)", "--config.poster.weights=a.npz"],
    )  # fmt: skip
    assert (config.folds, config.seed, config.poster.flip) == (3, 7, False)
    assert config.encoders == ("plot",)
    assert config.poster_grey.weights == "a.npz"  # it follows the other section
    assert config_flag.load("talk").folds == 5  # which is not changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.no.such.field=1"], "config has no field no. It has: data, encoders"),
        (
            ["--config.data.columns=plot=blurb"],
            "config.data.columns has fields. Set one of them: --config.data.columns.genres, ",
        ),
        (["--config.plot.trainin.epochs=3"], "Did you mean config.plot.training?"),
        (["--config.plot.max_length.epochs=3"], "config.plot.max_length is a value"),
        (["--noconfig.split_parameter"], "Did you mean config.split_parameters?"),
        (["--config.seed=1", "--config.fodls=3"], "Did you mean config.folds?"),
        (["--config.folds=abc"], "--config.folds=abc: an integer is needed."),
        (["--config.folds=2.5"], "--config.folds=2.5: an integer is needed."),
        (["--config.plot.training.learning_rate=x"], "learning_rate=x: a number is needed."),
        (["--config.poster.flip=perhaps"], "flip=perhaps: true or false is needed."),
        (["--config.seed"], "Missing value for flag --config.seed"),
        (["--wrkdir=x"], "--wrkdir is no flag. Did you mean --workdir?"),
        (["--cofig.folds=3"], "--cofig.folds is no flag. Did you mean --config.folds?"),
        (["folder"], "'folder' is not a flag."),
        (["--config.plot=3"], "config.plot"),
        (["--config.poster.training.learning_rate_scale.vgg=1"], "learning_rate_scale.vgg16?"),
    ],
)
@pytest.mark.parametrize("place", ["talk", str(CONFIGS / "talk.py")])
def test_a_mistake_in_a_field_is_one_line_with_the_nearest(place, arguments, message):
    assert message in mistake(place, arguments, ["workdir", "config"])


@pytest.mark.parametrize("place", ["tlak", "configs/tlak.py", "/nowhere/tlak.py", "talks"])
def test_a_config_that_does_not_exist_is_one_line_with_the_nearest(place):
    found = mistake(place)
    assert found.startswith(f"--config={place}: there is no such config. Did you mean ")
    assert "--config=talk" in found
    assert found.endswith(f"The configs of this package: {', '.join(config_flag.names())}.")


def test_what_is_no_python_file(tmp_path):
    assert "not a Python file" in mistake(str(tmp_path))
    (tmp_path / "config.yaml").touch()
    assert "not a Python file" in mistake(str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config():\n    return 3 +\n", "line 2: SyntaxError: "),
        ("import nonsense\n", "line 1: ModuleNotFoundError: No module named 'nonsense'"),
        ("def get_config():\n    x = {}\n    return x['a']\n", "line 3: KeyError: 'a'"),
        ("def config():\n    pass\n", "the file has no function get_config."),
        ("def get_config():\n    pass\n", "get_config does not return a ConfigDict."),
        (
            "from mmgc_jax.configs import talk\nfrom mmgc_jax.encoders import base\n"
            "def get_config():\n    return base.following(talk.get_config().plot, hiden=3)\n",
            "line 4: following: ",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(tmp_path, source, message):
    file = tmp_path / "mine.py"
    file.write_text(source)
    found = mistake(str(file))
    assert found.startswith(f"--config={file}: ") and message in found


@pytest.mark.parametrize("name", config_flag.names())
def test_every_field_is_described_as_a_flag_that_sets_it(name):
    config = config_flag.load(name)
    lines = config_flag.describe(config).splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) <= 100
    described = [re.fullmatch(r"(--config\..*)  \((\w+)\)", line) for line in lines]
    described = [found for found in described if found]

    def values(section):
        for value in section.values():
            if isinstance(value, ml_collections.ConfigDict):
                yield from values(value)
            else:
                yield type(value).__name__

    assert sorted(found[2] for found in described) == sorted(values(config))
    # As a shell reads them.
    arguments = [word for found in described for word in shlex.split(found[1])]
    assert config_flag.load(name, arguments) == config


def test_fields_come_with_the_comments_of_the_sources():
    config = config_flag.load("talk", ["--config.folds=3"])
    lines = config_flag.describe(config).splitlines()
    # As in `training_settings`, which `default_settings` of an encoder calls.
    source = pathlib.Path(base.__file__).read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(source) if "training.epochs = " in text)
    comment = source[line - 1].strip()
    assert comment.startswith("# ")
    place = next(n for n, text in enumerate(lines) if text.startswith("--config.plot.training.epo"))
    assert lines[place + 1].strip() == comment.removeprefix("# ")
    # In the order of the sources: general fields, data, fusion, encoders in the order of the table.
    places = [next(n for n, text in enumerate(lines) if text.startswith(f"--config.{field}="))
              for field in ("seed", "folds", "data.source", "fusion.encoders", "plot.kind",
                            "plot.tokens", "plot.vectors.file", "poster.kind", "poster_grey.kind",
                            )]  # fmt: skip
    assert places == sorted(places)
    assert lines[places[1]] == "--config.folds=3  (int)"


def section_settings() -> ml_collections.ConfigDict:
    made = ml_collections.ConfigDict()
    # Of the section's field.
    made.field = 1
    return made


def some_settings() -> ml_collections.ConfigDict:
    settings = plot_lstm.ml_collections.ConfigDict()
    # This comment has
    # two lines.
    settings.first = 1
    settings.second = 2
    # Not directly above.

    settings.third = "# no comment"
    # A section.
    inner = settings.inner = ml_collections.ConfigDict()
    # A field of it.
    inner.field = 3
    settings.inner.other = 4
    settings.made = section_settings()
    return settings


def test_comments_by_hand():
    assert config_flag.comments_of(some_settings) == {
        "first": "This comment has two lines.",
        "second": "",
        "third": "",
        "inner": "A section.",
        "inner.field": "A field of it.",
        "inner.other": "",
        "made": "",
        "made.field": "Of the section's field.",
    }


def test_kinds_of_ones_own_are_described_too():
    described = config_flag.describe(config_flag.load("tests/toy_config.py"))
    assert "--config.short_length.longest=5  (int)\n      Longer plots " in described
