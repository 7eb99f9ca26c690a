"""Graph of imports between the modules of this project, parsed from the source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

PACKAGE = "flex_judge"
LAYERS = ("judges", "reward", "alignment", "experiments")
"""Layers from the bottom up: a layer may import the layers before it."""
Edges = Mapping[str, frozenset[str]]


class ImportGraph:
    """Modules by their dotted name below `flex_judge`, and their imports."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        for layer in LAYERS:
            for path in sorted((root / layer).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    @cached_property
    def at_module_level(self) -> Edges:
        """Imports that run when a module is imported, without those for type checkers."""
        return {name: frozenset(self._list_imports(name, inside_functions=False)) for name in self.paths}

    @cached_property
    def anywhere(self) -> Edges:
        """All imports, including those inside functions."""
        return {name: frozenset(self._list_imports(name, inside_functions=True)) for name in self.paths}

    def _list_imports(self, name: str, *, inside_functions: bool) -> Iterator[str]:
        pending: list[ast.AST] = [ast.parse(self.paths[name].read_text(encoding="utf-8"))]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            for target in _list_targets(node):
                module = target.removeprefix(f"{PACKAGE}.")
                if module in self.paths and module != name:
                    yield module
            pending.extend(ast.iter_child_nodes(node))

    def _map_imports_between_subpackages(self, edges: Edges) -> dict[str, dict[tuple[str, str], str]]:
        imports: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for source, targets in edges.items():
            for target in targets:
                a, b = source.split("."), target.split(".")
                depth = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
                if depth:  # Both modules are in the same package, but in different subpackages of it.
                    imports[".".join(a[:depth])][a[depth], b[depth]] = f"{source} -> {target}"
        return imports

    def find_circular_imports(self) -> list[str]:
        """Find imports between subpackages that go both ways, directly or through other subpackages."""
        circles = []
        for package, between in self._map_imports_between_subpackages(self.anywhere).items():
            neighbours: dict[str, set[str]] = defaultdict(set)
            for source, target in between:
                neighbours[source].add(target)
            circles += [
                f"{package}: {example}"
                for (source, target), example in sorted(between.items())
                if source in _find_reachable(neighbours, target)
            ]
        return circles

    def map_importers(self) -> dict[str, set[str]]:
        """Map each module to the modules that import it."""
        importers: dict[str, set[str]] = {name: set() for name in self.paths}
        for source, targets in self.anywhere.items():
            for target in targets:
                importers[target].add(source)
        return importers

    def count_lines(self, name: str) -> int:
        """Count the lines of a module."""
        return len(self.paths[name].read_text(encoding="utf-8").splitlines())

    def list_subpackages(self, package: str) -> list[str]:
        """List the modules and packages directly below a package."""
        return sorted({name.split(".")[1] for name in self.paths if name.startswith(f"{package}.")})


def find_longest_chain(edges: Edges) -> list[str]:
    """Find the longest chain of modules in which each imports the next.

    Raises:
        ValueError: modules import each other in a circle.
    """
    chains: dict[str, list[str]] = {}
    path: list[str] = []

    def find_chain_from(name: str) -> list[str]:
        if name in path:
            raise ValueError(" -> ".join([*path[path.index(name) :], name]))
        if name not in chains:
            path.append(name)
            chains[name] = [name, *max(map(find_chain_from, sorted(edges[name])), key=len, default=[])]
            path.pop()
        return chains[name]

    return max(map(find_chain_from, edges), key=len)


def _list_targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        # `from package import module` imports the module; any other name comes from the package itself.
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _find_reachable(neighbours: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    pending = [start]
    while pending:
        for name in neighbours.get(pending.pop(), ()):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return seen
