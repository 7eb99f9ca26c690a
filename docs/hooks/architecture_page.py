"""The map of the source, read from the docstrings of its packages and modules."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tables import code, first_paragraph, table

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("judges", "reward", "alignment", "experiments")
"""The packages, lowest first. Each may import those before it."""


def generate() -> str:
    """Write a section per package and a subsection per subpackage, with tables of their modules."""
    return "\n".join(part for layer in LAYERS for part in _describe_layer(ROOT / layer))


def _describe_layer(layer: Path) -> Iterator[str]:
    yield f"## {layer.name} {{ #{layer.name} }}\n"
    yield from _describe_package(layer, sorted(layer.glob("*.py")))
    for folder in sorted(path.parent for path in layer.glob("*/__init__.py")):
        yield f"### {layer.name}/{folder.name} {{ #{layer.name}-{folder.name} }}\n"
        yield from _describe_package(folder, sorted(folder.rglob("*.py")))


def _describe_package(package: Path, modules: Sequence[Path]) -> Iterator[str]:
    yield f"{read_docstring(package / '__init__.py')}\n"
    rows = []
    for module in modules:
        if module != package / "__init__.py":
            name = str(module.relative_to(package)).removesuffix("__init__.py")
            rows.append([code(name), first_paragraph(read_docstring(module))])
    if rows:
        content = table(["Module", "Content"], rows)
        yield '??? note "Modules"\n\n' + textwrap.indent(content, "    ")


def read_docstring(module: Path) -> str:
    """Read the docstring of a module without importing it."""
    return ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
