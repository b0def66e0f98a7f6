"""Shows shapes in docstrings as code.

Docstrings give shapes as `<float32>[batch, genres]` without quotation marks. Markdown would take
`<float32>` for an HTML element and hide it.
"""

import re

import griffe

# A code span, or a shape.
_SHAPE = re.compile(r"`[^`]*`|<\w+>(?:\[[^\]]*\])?")


class ShapesAsCode(griffe.Extension):
    """Puts the shapes in all docstrings between backticks."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = quote_shapes(obj.docstring.value)


def quote_shapes(text: str) -> str:
    """Puts backticks around the shapes of a docstring, but not in code and not in code spans."""
    paragraphs = re.split(r"(\n\n+)", text)
    return "".join(p if _is_code(p) else _SHAPE.sub(_quote, p) for p in paragraphs)


def _is_code(paragraph: str) -> bool:
    return all(line.startswith("    ") for line in paragraph.splitlines())


def _quote(match: re.Match) -> str:
    return match[0] if match[0].startswith("`") else f"`{match[0]}`"
