"""The flag `--config`: finds and loads a config, sets fields of it, and describes all fields."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re
import shlex
import textwrap
import traceback
from collections.abc import Callable, Iterable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from mmgc_jax import command_line, configs
from mmgc_jax.runtime.errors import InputError, did_you_mean

DEFAULT = "demo"

_FOLDER = pathlib.Path(configs.__path__[0]).resolve()
_BASE = "default"  # what the other configs start from


def load(
    place: str, arguments: Sequence[str] = (), further_flags: Iterable[str] = ()
) -> ml_collections.ConfigDict:
    """Loads a config and sets the fields that arguments name.

    Args:
      place: name of a config of this package, such as `talk`, or path of a Python file with a
        function `get_config`.
      arguments: such as `--config.folds=3`.
      further_flags: names of flags that were parsed before, to find the nearest of a misspelt one.

    Raises:
      InputError: if there is no such config or field, with the nearest right names, if a value is
        impossible, or if the file has a mistake.
    """
    config = _call(place)
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for argument in arguments:
        _check_field(config, argument)
    argv = [place, *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    near = [*further_flags, *(f"config.{field}" for field in _fields(config))]
    if rest := command_line.parse(values, argv, further_names=near):
        raise InputError(f"{rest[0]!r} is not a flag. Flags begin with --; see --help.")
    return values.config.lock()


def names() -> list[str]:
    """Returns the names of this package's configs."""
    return sorted(file.stem for file in _FOLDER.glob("[!_]*.py") if file.stem != _BASE)


def summaries() -> str:
    """Returns a line for each config of this package: its name, and what it is."""
    lines = ["Configs of this package, for --config:"]
    for name in names():
        summary = command_line.summary_of(_FOLDER / f"{name}.py")
        lines += textwrap.wrap(
            summary, 100, initial_indent=f"  {name:<18}", subsequent_indent=" " * 20
        )
    return "\n".join(lines)


def describe(config: ml_collections.ConfigDict) -> str:
    """Returns all fields as flags, each with its value, its type, and the comment on it.

    Comments are read from the sources of the functions that make the settings.
    """
    from mmgc_jax.configs import default
    from mmgc_jax.encoders import registry

    comments = comments_of(default.get_config)
    shared = default.get_config()
    for name in dict.fromkeys([*config.get("encoders", ()), *config]):
        section = config.get(name)
        # `fusion`, which is among the shared sections, has kinds of its own.
        if isinstance(section, ml_collections.ConfigDict) and name not in shared:
            of_kind = comments_of(registry.find(section.kind).default_settings)
            comments[name] = ""
            comments |= {f"{name}.{field}": comment for field, comment in of_kind.items()}
    return "\n".join(_described(config, comments, ""))


def comments_of(function: Callable[[], ml_collections.ConfigDict]) -> dict[str, str]:
    """Reads the comments on the fields of the settings that a function makes.

    The comment on a field is the block of comment lines directly above its assignment. Where a
    section is made by another function, the comments in that function are read as well.

    Returns:
      Comments by dotted name of the field or section, in the order of the source; empty for fields
      without a comment.
    """
    source = textwrap.dedent(inspect.getsource(function))
    lines = source.splitlines()
    places: dict[str, str] = {}  # variable -> dotted name of the section that it holds
    comments: dict[str, str] = {}
    for statement in ast.parse(source).body[0].body:
        if not isinstance(statement, ast.Assign):
            continue
        variables = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        fields = [_field(target, places) for target in statement.targets]
        field = next((field for field in fields if field), "")
        places |= dict.fromkeys(variables, field)
        if field:
            comments[field] = _comment_above(lines, statement.lineno)
        if isinstance(statement.value, ast.Call):
            called = _resolve(statement.value.func, function.__globals__)
            if inspect.isfunction(called):
                prefix = f"{field}." if field else ""
                comments |= {prefix + name: text for name, text in comments_of(called).items()}
    return comments


def _field(target: ast.expr, places: dict[str, str]) -> str:
    """Returns the dotted name of the field that is assigned to; empty for a variable."""
    parts = []
    while isinstance(target, ast.Attribute):
        parts.insert(0, target.attr)
        target = target.value
    if not parts or not isinstance(target, ast.Name) or target.id not in places:
        return ""
    return ".".join(filter(None, [places[target.id], *parts]))


def _comment_above(lines: Sequence[str], number: int) -> str:
    """Returns the text of the comment lines directly above a line, which is counted from 1."""
    found = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        found.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(found)


def _resolve(expression: ast.expr, names: dict):
    """Returns the object that a dotted name stands for; None if there is none."""
    if isinstance(expression, ast.Attribute):
        return getattr(_resolve(expression.value, names), expression.attr, None)
    return names.get(expression.id) if isinstance(expression, ast.Name) else None


def _described(section: ml_collections.ConfigDict, comments: dict[str, str], prefix: str):
    """Yields the lines of `describe` for one section."""
    places = {field: place for place, field in enumerate(comments)}
    # A ConfigDict sorts its fields by name.
    ordered = sorted(section, key=lambda name: places.get(prefix + name, len(places)))
    for name in ordered:
        field, value = prefix + name, section[name]
        is_section = isinstance(value, ml_collections.ConfigDict)
        comment = textwrap.wrap(
            comments.get(field, ""), 100, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        if not is_section:
            yield f"--config.{field}={_quoted(value)}  ({type(value).__name__})"
            yield from comment
        else:
            if comment:
                yield f"config.{field}:"
                yield from comment
            yield from _described(value, comments, f"{field}.")


def _quoted(value) -> str:
    """Returns a value as it is written on a command line."""
    text = str(value)
    if re.fullmatch(r"[\w./:+-]*", text):
        return text
    # Lists have single quotes inside, and are easier to read in double quotes than escaped.
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def _fields(section: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Returns the dotted names of all fields."""
    found = []
    for name, value in section.items():
        found.append(prefix + name)
        if isinstance(value, ml_collections.ConfigDict):
            found += _fields(value, f"{prefix}{name}.")
    return found


def _call(place: str) -> ml_collections.ConfigDict:
    """Returns what the function `get_config` of a config returns."""
    path = _path(place)
    if path.parent == _FOLDER:
        return importlib.import_module(f"{configs.__name__}.{path.stem}").get_config().unlock()
    try:
        spec = importlib.util.spec_from_file_location("config_of_this_run", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError("the file has no function get_config.")
        config = module.get_config()
    except Exception as error:
        raise InputError(f"--config={place}: {_located(error, path)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"--config={place}: get_config does not return a ConfigDict.")
    return config.unlock()


def _path(place: str) -> pathlib.Path:
    """Returns the absolute path of a config.

    Raises:
      InputError: if there is none.
    """
    # A folder `talk` in the current folder does not hide the config of this name.
    path = _FOLDER / f"{place}.py" if place.isidentifier() else pathlib.Path(place).resolve()
    if path.is_file() and path.suffix == ".py":
        return path
    hint = did_you_mean(pathlib.Path(place).stem, names(), "--config={}")
    raise InputError(
        f"--config={place}: {'not a Python file' if path.exists() else 'there is no such config'}. "
        f"{hint or 'Give the path of a Python file, or a name.'} "
        f"The configs of this package: {', '.join(names())}."
    )


def _located(error: Exception, path: pathlib.Path) -> str:
    """Returns an error's message, after the line of the config from which it came."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{f'line {lines[-1]}: ' if lines else ''}{kind}{error}"


def _check_field(config: ml_collections.ConfigDict, argument: str) -> None:
    """Checks that an argument, if it sets a field, names one that the config has.

    Raises:
      InputError: if it does not, with the nearest right field.
    """
    found = re.match(r"--?(?:no)?config\.([^=]+)", argument)
    section, place = config, "config"
    for name in found[1].split(".") if found else ():
        if not isinstance(section, ml_collections.ConfigDict):
            raise InputError(f"{argument}: {place} is a value, and has no fields.")
        if name not in section:
            hint = did_you_mean(name, section, f"{place}.{{}}")
            hint = hint or f"It has: {', '.join(section) or 'no fields'}."
            raise InputError(f"{argument}: {place} has no field {name}. {hint}")
        section, place = section[name], f"{place}.{name}"
    if found and isinstance(section, ml_collections.ConfigDict):
        fields = ", ".join(f"--{place}.{name}" for name in list(section)[:3])
        raise InputError(f"{argument}: {place} has fields. Set one of them: {fields}, ...")
