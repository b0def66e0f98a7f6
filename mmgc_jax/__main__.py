"""Lists what can be run: python -m mmgc_jax"""

import ast
import pathlib

_FOLDER = pathlib.Path(__file__).parent
_DOORS = ("main", "predict", "compare")


def main() -> None:
    for name in _DOORS:
        tree = ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
        summary = ast.get_docstring(tree).splitlines()[0].split(":")[0].rstrip(".")
        print(f"python -m mmgc_jax.{name:<10}{summary}")


if __name__ == "__main__":
    main()
