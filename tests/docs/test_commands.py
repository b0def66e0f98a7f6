"""Commands in the README and the manual name subcommands, flags and fields that exist."""

import importlib
import importlib.util
import operator
import re
import shlex

import pytest
from absl import flags

from mmgc_jax import __main__, command_line, config_flag
from mmgc_jax.runtime.errors import InputError
from tests.docs import pages

COMMANDS = [command for page in pages.PAGES for command in pages.commands(page)]
# Values that stand for something else: a flag that takes a number would refuse them.
PLACEHOLDERS = {"N": "5", "COUNT": "2", "NUMBER": "0"}


def check(command: pages.Command) -> None:
    """Raises InputError if a command does not parse."""
    program, *words = (
        re.sub(r"=([A-Z]+)$", lambda found: f"={PLACEHOLDERS.get(found[1], found[1])}", word)
        for word in command.words
    )
    if program == "python":
        module, *words = words[1:]
        if module not in ("mmgc_jax", *(f"mmgc_jax.{d.module}" for d in __main__.DOORS.values())):
            check_other_module(module, words)
            return
        if module != "mmgc_jax":
            check_door(module, words)
            return
    if words and not words[0].startswith("-"):
        name, *words = words
        # COMMAND stands for any of them.
        names = __main__.DOORS if name == "COMMAND" else [name]
        for name in names:
            assert name in __main__.DOORS, f"no subcommand {name}"
            check_door(f"mmgc_jax.{__main__.DOORS[name].module}", words)


def check_door(module: str, words: list[str]) -> None:
    if command_line.asks_for_help(["", *words]):
        return
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    importlib.import_module(module).define_flags(values)
    is_train = module == "mmgc_jax.main"
    rest = command_line.parse(values, ["", *words], known_only=is_train)
    if is_train and values.config != "FILE":
        config_flag.load(values.config, rest)
    elif is_train:
        for word in rest:
            check_field_of_some_config(word)


def check_other_module(module: str, words: list[str]) -> None:
    """Asserts that a module exists, and that its source names the flags."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"no module {module}"
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    with open(spec.origin, encoding="utf-8") as stream:
        source = stream.read()
    for word in words:
        name = re.match(r"--([\w-]+)", word)
        if name and name[1] != "help":
            assert re.search(rf"[\"'](--)?{name[1]}[\"']", source), f"{module} has no {word}"


def check_field_of_some_config(argument: str) -> None:
    """Raises the last InputError if no config of the package has the field."""
    errors = []
    for name in config_flag.names():
        try:
            config_flag.load(name, [argument])
            return
        except InputError as error:
            errors.append(error)
    raise errors[-1]


@pytest.fixture
def in_folder_with_files(tmp_path, monkeypatch):
    """Changes to a folder that holds the files which a page tells to save."""

    def enter(page):
        for block in pages.blocks(page):
            if block.file:
                (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)

    return enter


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda c: f"{pages.name_of(c.page)}: {' '.join(c.words)}"[:120]
)
def test_commands_exist(command, in_folder_with_files):
    in_folder_with_files(command.page)
    check(command)


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)
def test_fields_in_the_text_exist(page):
    for code in re.findall(r"`(--config\.[^`]+)`", pages.prose(page)):
        (argument,) = shlex.split(code)
        name, _, value = argument.partition("=")
        if not value or re.search(r"[A-Z]{3}", value):  # a placeholder such as FILE
            argument = f"{name}={default_of(name)}"
        check_field_of_some_config(argument)


def default_of(name: str):
    """Returns the value of a field, `--config.folds`, in some config of the package."""
    for config in map(config_flag.load, config_flag.names()):
        try:
            return operator.attrgetter(name.removeprefix("--config."))(config)
        except AttributeError:
            continue
    raise AssertionError(f"no config has {name}")


def test_the_list_of_commands_is_shown_as_it_is_printed():
    blocks = pages.blocks(pages.ROOT / "docs" / "getting_started.md")
    (shown,) = (block.text for block in blocks if block.text.startswith("Movie genres from"))
    assert shown == f"{__main__._list()}\n"


def test_the_project_has_commands_to_check():
    programs = {" ".join(command.words[:2]) for command in COMMANDS}
    assert {"mmgc train", "mmgc predict", "mmgc compare", "python -m"} <= programs


@pytest.mark.parametrize(
    "line",
    [
        "mmgc trian --workdir=x",
        "mmgc predict --wrkdir=x",
        "mmgc train --config=tlak --workdir=x",
        "mmgc train --config=talk --config.plot.model.hiden=3",
        "mmgc train --config=talk --config.folds=three",
        "FOO=1 mmgc train --config=talk --config.folds=3 && mmgc predict --plott=x",
        "echo x | mmgc predict --plott=-",
        "python -m mmgc_jax.pretrained.vgg16 --sauce=keras",
        "python -m benchmarks.nothing",
    ],
)
def test_wrong_commands_are_found(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Text\n\n```sh\n{line}\n```\n")
    with pytest.raises((InputError, AssertionError, ImportError)):
        for command in pages.commands(page):
            check(command)
