"""The graph of imports between the modules of this project, read from the source text."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

PACKAGE = "flex_judge"
LAYERS = ("judges", "reward", "alignment", "experiments")
"""From the bottom up: a layer imports those before it."""
Edges = Mapping[str, frozenset[str]]


class ImportGraph:
    """Modules by their dotted name below `flex_judge`, and what each imports."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        for layer in LAYERS:
            for path in sorted((root / layer).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    @cached_property
    def at_module_level(self) -> Edges:
        """Imports that run when a module is imported; those for type checkers do not."""
        return {name: frozenset(self._imports(name, inside_functions=False)) for name in self.paths}

    @cached_property
    def anywhere(self) -> Edges:
        """The same with imports inside functions."""
        return {name: frozenset(self._imports(name, inside_functions=True)) for name in self.paths}

    def _imports(self, name: str, *, inside_functions: bool) -> Iterator[str]:
        pending: list[ast.AST] = [ast.parse(self.paths[name].read_text(encoding="utf-8"))]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            for target in _targets(node):
                module = target.removeprefix(f"{PACKAGE}.")
                if module in self.paths and module != name:
                    yield module
            pending.extend(ast.iter_child_nodes(node))

    def _imports_between_rooms(self, edges: Edges) -> dict[str, dict[tuple[str, str], str]]:
        rooms: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for source, targets in edges.items():
            for target in targets:
                a, b = source.split("."), target.split(".")
                depth = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
                if depth:  # they part below a common package
                    rooms[".".join(a[:depth])][a[depth], b[depth]] = f"{source} -> {target}"
        return rooms

    def rooms_in_circles(self) -> list[str]:
        """Imports between the rooms of a package that go both ways, directly or through other rooms."""
        circles = []
        for package, between in self._imports_between_rooms(self.anywhere).items():
            neighbours: dict[str, set[str]] = defaultdict(set)
            for source, target in between:
                neighbours[source].add(target)
            circles += [
                f"{package}: {example}"
                for (source, target), example in sorted(between.items())
                if source in _reachable(neighbours, target)
            ]
        return circles

    def importers(self) -> dict[str, set[str]]:
        """Which modules import each module."""
        importers: dict[str, set[str]] = {name: set() for name in self.paths}
        for source, targets in self.anywhere.items():
            for target in targets:
                importers[target].add(source)
        return importers

    def lines(self, name: str) -> int:
        """Lines of a module."""
        return len(self.paths[name].read_text(encoding="utf-8").splitlines())

    def rooms(self, package: str) -> list[str]:
        """The modules and packages directly below a package."""
        return sorted({name.split(".")[1] for name in self.paths if name.startswith(f"{package}.")})


def longest_chain(edges: Edges) -> list[str]:
    """The longest chain of modules of which each imports the next.

    Raises:
        ValueError: modules import each other in a circle.
    """
    chains: dict[str, list[str]] = {}
    under_way: list[str] = []

    def chain_from(name: str) -> list[str]:
        if name in under_way:
            raise ValueError(" -> ".join([*under_way[under_way.index(name) :], name]))
        if name not in chains:
            under_way.append(name)
            chains[name] = [name, *max(map(chain_from, sorted(edges[name])), key=len, default=[])]
            under_way.pop()
        return chains[name]

    return max(map(chain_from, edges), key=len)


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        # `from package import module` imports the module; any other name comes from the package itself.
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reachable(neighbours: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    pending = [start]
    while pending:
        for name in neighbours.get(pending.pop(), ()):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return seen
