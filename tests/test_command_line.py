"""Everything that the doors share: help, mistakes, log lines, terminals, pipes."""

import logging
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import pytest
from absl import flags

from mmgc_jax import command_line, compare, export, main, predict
from mmgc_jax.runtime.errors import InputError, Interrupted
from tests import tiny
from tests.terminal import screen_of

CACHE = "jax_compilation_cache_dir"
MODULES = {"train": main, "predict": predict, "compare": compare, "export": export}
DOCUMENTATION = r"""Does something.

    mmgc something --folder=x \
        --top=3
"""


def define_flags(values):
    flags.DEFINE_string("folder", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_integer("top", 5, "How many.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("format", "text", ["text", "json"], "How.", flag_values=values)
    flags.DEFINE_bool("decisions", False, "Whether to decide.", flag_values=values)
    command_line.define_encoder_modules(values)


@pytest.fixture
def door(capsys):
    """Runs a door with some arguments: exit status, standard output, standard error."""

    def run(*arguments, main=lambda values, rest: print(values.folder, rest), **settings):
        try:
            command_line.run(DOCUMENTATION, define_flags, main, ["mmgc x", *arguments], **settings)
            status = 0
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_shows_the_documentation_and_only_the_flags_of_the_door(door, flag):
    status, out, err = door("--nonsense", flag, required=["folder"], further_help=lambda: "More.")
    assert status == 0 and err == ""
    assert out == DOCUMENTATION + textwrap.dedent("""
        Flags:
          --folder=...  (required)
              Folder of a run.
          --top=...  (default: 5)
              How many.
          --format=text|json  (default: text)
              How.
          --[no]decisions  (default: false)
              Whether to decide.
          --encoder_modules=...  (may be repeated)
              Module with a kind of encoder that is not of this package, imported before a run is read.

        More.
        """)  # noqa: E501


def test_flags_may_be_given_in_each_form(door):
    for arguments in (["--folder=a", "--", "--b"], ["--", "--b"]):
        assert door(*arguments, operands=True)[1].endswith("['--b']\n")
    assert door("c", "-folder", "a", "--nodecisions", operands=True) == (0, "a ['c']\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["--stage=plot,fusion"], ["plot", "fusion"]),
        (["--stage=plot", "--stage=fusion,poster"], ["plot", "fusion", "poster"]),
    ],
)
def test_a_list_that_is_given_again_becomes_longer(arguments, expected):
    values = flags.FlagValues()
    command_line.define_list(values, "stage", "Models.")
    values(["mmgc x", *arguments])
    assert values.stage == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foldr=a"], "--foldr is no flag. Did you mean --folder?"),
        (["--zzz"], "--zzz is no flag. See --help."),
        ([], "--folder is missing. Give --folder=PATH: folder of a run."),
        (["--folder"], "Missing value for flag --folder"),
        (["--folder=a", "--top=x"], "--top=x: a positive integer is needed."),
        (["--folder=a", "--top=0"], "--top=0: a positive integer is needed."),
        (["--folder=a", "--format=jsn"], "--format=jsn: possible: text, json. Did you mean json?"),
        (["--folder=a", "--decisions=perhaps"], "--decisions=perhaps: true or false is needed."),
        (["--folder=a", "b"], "'b' is not a flag. Flags begin with --; see --help."),
    ],
)
def test_a_mistake_is_one_line(door, arguments, message):
    assert door(*arguments, required=["folder"]) == (2, "", f"error: {message}\n")


def test_an_input_error_is_one_line_and_other_errors_have_their_traceback(door):
    def wrong(values, rest):
        raise InputError("the file is wrong")

    assert door(main=wrong) == (2, "", "error: the file is wrong\n")

    def broken(values, rest):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        door(main=broken)


def test_a_stop_says_how_to_continue(door):
    def stopped(values, rest):
        raise Interrupted("Stopped by SIGTERM; what was done is kept.")

    status, _, err = door("--folder=my runs", main=stopped)
    assert status == 75
    assert err == (
        "Stopped by SIGTERM; what was done is kept. To continue, run the same again:\n"
        f"  {sys.executable} -m tests.test_command_line '--folder=my runs'\n"
    )

    def interrupted(values, rest):
        raise KeyboardInterrupt

    assert door(main=interrupted) == (130, "", "")


@pytest.mark.parametrize(
    ("started", "again"),
    [
        (["python", "-m", "mmgc_jax.main", "--workdir=a b"],
         "python -m mmgc_jax.main '--workdir=a b'"),
        (["/env/bin/python", "-m", "mmgc_jax", "train", "--workdir=a b"],
         "/env/bin/python -m mmgc_jax train '--workdir=a b'"),
        (["python3", "-X", "dev", "mmgc_jax/main.py", "--workdir=a b"],
         "python3 -X dev mmgc_jax/main.py '--workdir=a b'"),
        (["/env/bin/python", "{folder}/mmgc", "train", "--workdir=a b"],
         "mmgc train '--workdir=a b'"),
        (["/env/bin/python", "/env/bin/mmgc", "train", "--workdir=a b"],
         "/env/bin/mmgc train '--workdir=a b'"),
        (["python", "-m", "ipykernel_launcher"],
         f"{sys.executable} -m mmgc_jax.main '--workdir=a b'"),
    ],
)  # fmt: skip
def test_the_command_that_starts_a_process_again(monkeypatch, tmp_path, started, again):
    (tmp_path / "mmgc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    started = [part.format(folder=tmp_path) for part in started]
    monkeypatch.setattr(sys, "orig_argv", started)
    assert command_line.command_again(["--workdir=a b"], "mmgc_jax.main") == again


def test_log_lines_have_no_prefix_and_libraries_show_errors_only(capsys):
    command_line.set_up_logging()
    command_line.set_up_logging()  # does not double the lines
    ours, theirs = logging.getLogger("mmgc_jax.training"), logging.getLogger("orbax")
    ours.info("epoch %d", 1)
    ours.debug("not shown")
    ours.warning("careful")
    theirs.warning("not shown")
    logging.getLogger("mmgc_jaxes").warning("not shown")
    theirs.error("broken")
    assert capsys.readouterr().err == "epoch 1\nwarning: careful\nerror: broken\n"


@pytest.fixture
def place():
    """Sets where compiled programs are kept; as before afterwards."""
    before = getattr(jax.config, CACHE)
    yield lambda value: jax.config.update(CACHE, value)
    jax.config.update(CACHE, before)


def test_every_door_keeps_compiled_programs(monkeypatch, tmp_path, place, door):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place(None)
    door()
    assert getattr(jax.config, CACHE) == str(tmp_path / "mmgc_jax" / "compiled")


def test_compiled_programs_are_kept_where_jax_is_told(place):
    place("/elsewhere")
    command_line.use_compilation_cache()
    assert getattr(jax.config, CACHE) == "/elsewhere"


def python(code, *arguments, **settings):
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=tiny.ROOT, capture_output=True, timeout=120, **settings,
    )  # fmt: skip


TITLE = "AMÉLIE — 5 × “№” █▏… ≥ é 日 \udcff"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, 'AMELIE -- 5 x "No" #|... >= e ? ?'),
        ({"PYTHONIOENCODING": "latin-1"}, 'AMÉLIE -- 5 × "No" #|... >= é ? ?'),
        ({"PYTHONIOENCODING": "utf-8"}, TITLE.replace("\udcff", "?")),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
         'AMELIE -- 5 x "No" #|... >= e ? ?'),
    ],
)  # fmt: skip
def test_characters_that_a_terminal_lacks_are_replaced(environment, shown):
    code = f"""
        import sys
        from mmgc_jax import command_line
        command_line.make_output_safe()
        print({TITLE!a})
        print({TITLE!a}, file=sys.stderr)
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_"))}
    ended = python(code, env=inherited | environment)
    encoding = environment.get("PYTHONIOENCODING", "ascii")
    assert ended.returncode == 0
    assert ended.stdout.decode(encoding) == ended.stderr.decode(encoding) == shown + "\n"


def test_a_reader_that_ends_early_is_no_error():
    code = """
        from mmgc_jax import command_line
        def main(values, rest):
            for number in range(100_000):
                print(number)
        command_line.run("Counts.", lambda values: None, main, ["count"])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tiny.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


@pytest.mark.parametrize(("rows", "columns"), [(40, 80), (0, 0)])
def test_log_lines_stand_above_bars(rows, columns):
    code = """
        import logging
        from mmgc_jax import command_line
        from mmgc_jax.runtime.progress import progress_bar
        command_line.make_output_safe()
        command_line.set_up_logging()
        with progress_bar(total=6, desc="training", mininterval=0) as bar:
            for step in range(6):
                bar.update(1)
                if step % 2:
                    logging.getLogger("mmgc_jax.training").info("step %d", step)
    """
    *lines, bar, end = screen_of(code, rows=rows, columns=columns)
    assert lines == ["step 1", "step 3", "step 5"]
    assert bar.startswith("training: 100%|") and "6/6" in bar and len(bar) <= 80
    assert end == ""


@pytest.mark.parametrize("name", MODULES)
def test_help_of_every_command(name, capsys):
    module = MODULES[name]
    module.start([f"mmgc {name}", "--help"])
    out = capsys.readouterr().out
    assert out.startswith(module.__doc__.strip())
    assert f"mmgc {name} " in module.__doc__  # an example
    # A backslash at the end of a line is shown, since the docstring is raw.
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    assert source.split('"""')[1].strip() == module.__doc__.strip()
    assert max(map(len, out.splitlines())) <= 100
    for foreign in ("verbosity", "alsologtostderr", "absl", "pdb"):
        assert foreign not in out


def test_readers_of_runs_take_kinds_of_ones_own(capsys):
    for module in (predict, compare, export):
        values = flags.FlagValues()
        module.define_flags(values)
        command_line.parse(values, ["x", "--encoder_modules=a", "--encoder_modules=b"])
        assert values.encoder_modules == ["a", "b"]


def test_help_and_wrong_flags_need_no_heavy_library():
    code = """
        import sys
        from mmgc_jax import __main__ as commands
        commands.start(["mmgc"])
        for arguments in (["train", "--help"], ["predict", "--help"], ["predict", "--x"],
                          ["compare", "--help"], ["compare", "--x"],
                          ["export", "--help"], ["export", "--x"]):
            try:
                commands.start(["mmgc", *arguments])
            except SystemExit as stop:
                assert stop.code == 2
        heavy = {"jax", "flax", "numpy", "orbax", "grain", "tensorflow_datasets", "matplotlib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    ended = python(code, text=True)
    assert ended.returncode == 0, ended.stderr
