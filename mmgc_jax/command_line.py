"""Everything that the doors share: flags, help, one-line errors, log lines, output without UTF-8.

A door is a module with a docstring, `define_flags`, `main` and `start`:

    def define_flags(values: flags.FlagValues) -> None:
        flags.DEFINE_string("workdir", None, "Folder of a finished run.", flag_values=values)

    def main(values: flags.FlagValues, arguments: list[str]) -> None:
        print(values.workdir)

    def start(argv: Sequence[str] | None = None) -> None:
        command_line.run(__doc__, define_flags, main, argv, required=("workdir",))

    if __name__ == "__main__":
        start()

Flags live in a `FlagValues` of their own, since absl's global flags include those of every library
that is imported. JAX is imported only after the flags are parsed, so that `--help` and wrong flags
are answered at once.
"""

import ast
import codecs
import faulthandler
import io
import logging
import os
import pathlib
import re
import select
import shlex
import shutil
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence

from absl import flags

from mmgc_jax.runtime import memory
from mmgc_jax.runtime.errors import InputError, Interrupted, did_you_mean

_HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}
_WIDTH = 100  # columns of the help
_PACKAGE = "mmgc_jax"


def run(
    documentation: str,
    define_flags: Callable[[flags.FlagValues], None],
    main: Callable[[flags.FlagValues, list[str]], None],
    argv: Sequence[str] | None = None,
    *,
    required: Sequence[str] = (),
    operands: bool = False,
    known_only: bool = False,
    further_help: Callable[[], str] | None = None,
) -> None:
    """Runs a door: parses its flags, sets up logging and the compilation cache, calls `main`.

    `--help` prints the documentation and the flags, and returns. An InputError, a wrong flag among
    them, is printed as one line that begins with `error: `, and the process exits with status 2.
    After a requested stop the command line that continues is printed, and the status is 75.

    Args:
      documentation: the door's docstring. One with backslashes must be a raw string.
      define_flags: defines flags in the FlagValues that it is given.
      main: takes the parsed flags and the arguments that are no flags.
      argv: the program's name and its arguments; None takes those of the process.
      required: flags that must be given.
      operands: whether arguments that are no flags are allowed.
      known_only: whether flags that `define_flags` does not define are passed to `main`, in their
        order, together with the arguments that are no flags.
      further_help: returns a text that `--help` prints at the end.
    """
    argv = list(sys.argv if argv is None else argv)
    memory.keep_freed()
    make_output_safe()
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may stand behind other arguments
    try:
        define_flags(values)
        if asks_for_help(argv):
            print(help_text(documentation, values, required))
            if further_help is not None:
                print(f"\n{further_help()}")
            sys.stdout.flush()
            return
        arguments = parse(values, argv, known_only=known_only)
        require(values, required)
        if arguments and not operands and not known_only:
            raise InputError(f"{arguments[0]!r} is not a flag. Flags begin with --; see --help.")
        set_up_logging()
        use_compilation_cache()
        main(values, arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        from mmgc_jax.runtime.preemption import EXIT_CODE

        again = command_again(argv[1:], main.__module__)
        print(f"{stop} To continue, run the same again:\n  {again}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells report it
    except BrokenPipeError:
        exit_if_nobody_reads()
        raise


def asks_for_help(argv: Sequence[str]) -> bool:
    """Returns whether an argument before `--` asks for help."""
    arguments = list(argv[1:])
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    return not _HELP.isdisjoint(arguments)


def parse(
    values: flags.FlagValues,
    argv: Sequence[str],
    *,
    known_only: bool = False,
    further_names: Iterable[str] = (),
) -> list[str]:
    """Parses flags into `values`.

    Args:
      values: the flags.
      argv: the program's name and its arguments.
      known_only: whether unknown flags are returned; otherwise they are mistakes.
      further_names: names of flags that exist elsewhere, to find the nearest of a misspelt one.

    Returns:
      The arguments that were not parsed.

    Raises:
      InputError: if a flag is unknown, with the nearest right ones, or its value is impossible.
    """
    try:
        return values(list(argv), known_only=known_only)[1:]
    except flags.UnrecognizedFlagError as error:
        names = [name for name in _names(values) if name != error.flagname]
        hint = did_you_mean(error.flagname, [*names, *further_names], "--{}")
        raise InputError(f"--{error.flagname} is no flag. {hint or 'See --help.'}") from error
    except flags.Error as error:
        raise InputError(_plain(str(error), values)) from error


def require(values: flags.FlagValues, names: Iterable[str]) -> None:
    """Checks that flags are given.

    Raises:
      InputError: if one is not.
    """
    for name in names:
        if values[name].value is None:
            meaning = values[name].help
            raise InputError(
                f"--{name} is missing. Give --{name}=PATH: {meaning[0].lower()}{meaning[1:]}"
            )


def require_model(name: str, models: Sequence[str]) -> None:
    """Raises `InputError` if `--stage` names a model that an experiment does not have."""
    if name not in models:
        hint = did_you_mean(name, models)
        raise InputError(f"--stage={name}: this experiment has: {', '.join(models)}. {hint}")


def help_text(documentation: str, values: flags.FlagValues, required: Sequence[str] = ()) -> str:
    """Returns the documentation, followed by all flags with their meanings and defaults."""
    lines = [documentation.strip(), "", "Flags:"]
    for name in _names(values):
        lines.append(f"  {_usage(values[name], name in required)}")
        # absl adds choices in front, and a note on repetition behind.
        meaning = re.sub(r"^<[^>]*>: |;\s+repeat this option.*$", "", values[name].help, flags=re.S)
        meaning = " ".join(meaning.split())
        lines += textwrap.wrap(
            meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def summary_of(file: pathlib.Path) -> str:
    """Returns the first line of a module's docstring, without importing the module."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).splitlines()[0]


class _ListFlag(flags.Flag):
    """A list of texts, separated by commas; a flag that is given again adds to the list."""

    def parse(self, argument) -> None:
        earlier = self.value if self.present else []
        super().parse(argument)
        self.value = [*earlier, *self.value]


def define_list(values: flags.FlagValues, name: str, meaning: str) -> None:
    """Defines a flag such as `--stage=plot,fusion`, or `--stage=plot --stage=fusion`."""
    parser, serializer = flags.ListParser(), flags.CsvListSerializer(",")
    flags.DEFINE_flag(_ListFlag(parser, serializer, name, [], meaning), values)


def define_encoder_modules(values: flags.FlagValues) -> None:
    """Defines `--encoder_modules`, for doors that read finished runs."""
    flags.DEFINE_multi_string(
        "encoder_modules",
        [],
        "Module with a kind of encoder that is not of this package, imported before a run is read.",
        flag_values=values,
    )


def command_again(arguments: Sequence[str], module: str) -> str:
    """Returns a command line that starts this process again, however it was started.

    Args:
      arguments: those that the door was given, without the program's name.
      module: the door's full name, for a process that no command line of this package started, such
        as a notebook.
    """
    arguments = list(arguments)
    started = list(sys.orig_argv)
    before = len(started) - len(arguments)
    if before < 2 or started[before:] != arguments:
        return shlex.join([sys.executable, "-m", module, *arguments])
    # A console script: the interpreter, the script, a subcommand.
    script = os.path.basename(started[1])
    if script == "mmgc" and shutil.which(script) == os.path.abspath(started[1]):
        started[:2] = [script]
    elif script == "mmgc":
        started[:2] = [started[1]]
    return shlex.join(started)


def set_up_logging() -> None:
    """Logs this package's messages to standard error, and of libraries only errors.

    Messages have no prefix, but warnings and errors have the name of their level.
    """
    root = logging.getLogger()
    if not any(isinstance(handler, _TerminalHandler) for handler in root.handlers):
        root.addHandler(_TerminalHandler())
    logging.getLogger(_PACKAGE).setLevel(logging.INFO)
    # Libraries ask absl's flags, and absl warns if nobody has parsed them.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a Python traceback where native code crashes


def use_compilation_cache() -> None:
    """Keeps compiled programs for later processes, unless JAX is configured where to keep them."""
    import jax  # not before flags are parsed

    from mmgc_jax.runtime.files import cache_folder_or_none

    if jax.config.jax_compilation_cache_dir is None and (folder := cache_folder_or_none()):
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    # jaxlib (0.12.0.1) cannot write programs that call oneDNN, and raises a MemoryError; each
    # process compiles its own.
    warnings.filterwarnings(
        "ignore", "Error writing persistent compilation cache entry .* MemoryError"
    )


def cache_small_programs() -> None:
    """Caches all compiled programs, for doors whose many programs each compile within a second.

    By default JAX caches programs that take a second to compile; together, small ones take longer.
    """
    import jax

    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_output_safe() -> None:
    """Lets standard output and error replace characters that their encoding lacks.

    Bars and dashes become ASCII characters that look like them, letters lose their accents, and
    other characters become question marks.
    """
    codecs.register_error(_ERRORS, _ascii_lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


_ERRORS = "mmgc_ascii"
_LOOKALIKES = {
    "█": "#", "▒": "+", "▏": "|", "│": "|", "─": "-", "•": "*",
    "‐": "-", "‑": "-", "–": "-", "—": "--", "−": "-",
    "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...",
    "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "→": "->",
}  # fmt: skip


def _ascii_lookalike(error: UnicodeError) -> tuple[str, int]:
    """Replaces what cannot be encoded; an error handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error

    def replace(character: str) -> str:
        if character in _LOOKALIKES:
            return _LOOKALIKES[character]
        decomposed = unicodedata.normalize("NFKD", character)
        return decomposed.encode("ascii", "ignore").decode("ascii") or "?"

    return "".join(map(replace, error.object[error.start : error.end])), error.end


class _TerminalHandler(logging.Handler):
    """Writes log lines to standard error, above progress bars if it is a terminal."""

    def __init__(self):
        super().__init__()
        self.addFilter(self._is_shown)

    @staticmethod
    def _is_shown(record: logging.LogRecord) -> bool:
        is_ours = record.name.split(".")[0] == _PACKAGE
        return is_ours or record.levelno >= logging.ERROR

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return f"{record.levelname.lower()}: {text}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            # Without a terminal, bars are log lines themselves, written under tqdm's lock. Taking
            # that lock here, under logging's, could end in a deadlock.
            if "tqdm" in sys.modules and sys.stderr.isatty():
                sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
            else:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _names(values: flags.FlagValues) -> list[str]:
    """Returns the names of flags in the order of their definition."""
    return [name for name in values if name != values[name].short_name]


def _usage(flag: flags.Flag, required: bool) -> str:
    """Returns a line such as `--top=5` or `--plot=TEXT  (required)`."""
    if flag.boolean:
        return f"--[no]{flag.name}  (default: {str(bool(flag.default)).lower()})"
    if isinstance(flag, flags.MultiFlag):
        return f"--{flag.name}=...  (may be repeated)"
    default = "" if flag.default in (None, "") else f"  (default: {flag.default})"
    choices = getattr(flag.parser, "enum_values", None)
    value = "|".join(choices) if choices else "..."
    return f"--{flag.name}={value}{'  (required)' if required else default}"


def _plain(message: str, values: flags.FlagValues) -> str:
    """Rewrites an error of absl: the flag, its value, and the kind of value that is needed."""
    found = re.match(r"flag --([\w.]+)=(.*?): ", message, re.DOTALL)
    if not found or found[1] not in values:
        return message
    name, value = found[1], found[2]
    parser = values[name].parser
    if choices := getattr(parser, "enum_values", None):
        hint = did_you_mean(value, choices)
        return f"--{name}={value}: possible: {', '.join(choices)}. {hint}".rstrip()
    wanted = "true or false" if values[name].boolean else parser.syntactic_help
    return f"--{name}={value}: {wanted} is needed." if wanted else message


def exit_if_nobody_reads() -> None:
    """Exits quietly if standard output is a pipe whose reader has ended, as `| head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        # Otherwise Python flushes again at its exit, and reports the error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE
