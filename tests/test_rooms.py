"""Tests that a module imports only modules of its own layer and of lower layers."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mmgc_jax"

# The layers from top to bottom, with their folders and files of the package.
FLOORS = (
    ("__main__", "main", "predict", "explain", "score", "compare", "report", "serve", "export"),
    ("movie_flags",),
    ("api",),
    ("config_flag",),
    ("command_line",),
    ("pages",),
    ("answers", "explanations", "scoring", "deployment"),
    ("experiment", "predictor", "zero_shot"),
    ("settings",),
    ("configs",),
    ("encoders",),
    ("training",),
    ("evaluation",),
    ("pretrained",),
    ("data",),
    ("models",),
    ("ops", "runtime"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py")])


def module_of(file):
    if file.parent == ROOT / "configs":
        return ("configs", file.stem)
    return file.relative_to(PACKAGE).with_suffix("").parts


def imports_of(file):
    """Yields the modules of the package that a file imports, as tuples of names."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package == "mmgc_jax" and parts:
                yield existing(tuple(parts))


def existing(parts):
    """Returns the longest prefix of a dotted name that is a module."""
    while len(parts) > 1:
        folder = ROOT if parts[0] == "configs" else PACKAGE
        place = folder.joinpath(*parts)
        if place.with_suffix(".py").is_file() or place.is_dir():
            return parts
        parts = parts[:-1]
    return parts


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_downwards(file):
    room = module_of(file)[0]
    if room == "__init__":  # the package's face
        return
    for imported in imports_of(file):
        below = FLOOR_OF[imported[0]] > FLOOR_OF[room]
        assert below or imported[0] == room, f"{file} imports {'.'.join(imported)}"


def test_models_import_ops_and_libraries_alone():
    for file in (PACKAGE / "models").glob("*.py"):
        for imported in imports_of(file):
            assert imported[0] in ("models", "ops"), f"{file} imports {imported}"


def test_every_room_stands_on_a_floor():
    rooms = {module_of(file)[0] for file in FILES} - {"__init__"}
    assert rooms == set(FLOOR_OF)


def test_no_imports_run_in_a_circle():
    graph = {module_of(file): set(imports_of(file)) for file in FILES}
    finished, open_ = set(), []

    def visit(module):
        if module in finished or module not in graph:
            return
        assert module not in open_, " -> ".join(map(".".join, [*open_, module]))
        open_.append(module)
        for imported in graph[module]:
            visit(imported)
        finished.add(open_.pop())

    for module in graph:
        visit(module)


def test_tests_mirror_the_rooms():
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = file.relative_to(ROOT / "tests").parent
        assert folder == pathlib.Path() or folder.parts[0] in (*FLOOR_OF, "docs"), file
