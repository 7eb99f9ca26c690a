"""The structure of the source: imports point one way, light modules stay light, chains stay short.

`python -m pytest tests/test_layers.py -s` prints the longest import chains and the rooms of each package.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import LAYERS, PACKAGE, ImportGraph, longest_chain
from repository import ROOT

HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "datasets", "scipy"}
SOURCES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
MOST_LINES = 300
MOST_ROOMS = 14
LONGEST_AT_MODULE_LEVEL, LONGEST_ANYWHERE = 14, 20
SMALL = 80
"""Lines below which a module with one importer belongs into that importer, unless it is a seam."""
SEAMS: dict[str, str] = {}
"""Small modules with one importer -> why they stand alone."""
PARTS_OF_A_COMMAND = ("config", "run", "view")
"""Every command is split into these modules, however small they are."""


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph(ROOT)


def imported(path: Path) -> set[str]:
    """The packages that a module imports, anywhere in it; our own layers go by their own name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return ours | {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_to_lower_layers_only(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_judges_import_no_ray_or_trl_and_vllm_only_in_its_engine(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "judges":
        assert not imported(path) & {"ray", "trl"}
        assert "vllm" not in imported(path) or path.parent.name == "vllm"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_a_docstring_and_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= MOST_LINES


def test_import_chains_are_short(graph: ImportGraph) -> None:
    at_module_level, anywhere = longest_chain(graph.at_module_level), longest_chain(graph.anywhere)
    print(f"\nlongest chain of module-level imports: {len(at_module_level)}: {' > '.join(at_module_level)}")
    print(f"longest chain of imports anywhere: {len(anywhere)}: {' > '.join(anywhere)}")
    assert len(at_module_level) <= LONGEST_AT_MODULE_LEVEL
    assert len(anywhere) <= LONGEST_ANYWHERE


def test_subpackages_import_each_other_one_way(graph: ImportGraph) -> None:
    assert not graph.rooms_in_circles()


@pytest.mark.parametrize("package", LAYERS)
def test_package_has_few_subpackages(graph: ImportGraph, package: str) -> None:
    rooms = graph.rooms(package)
    print(f"\n{package}: {len(rooms)} rooms: {', '.join(rooms)}")
    assert len(rooms) <= MOST_ROOMS


def test_small_modules_with_one_importer_are_seams(graph: ImportGraph) -> None:
    importers = graph.importers()
    small = {
        name
        for name, path in graph.paths.items()
        if len(importers[name]) == 1
        and graph.lines(name) < SMALL
        and path.name not in ("__init__.py", "__main__.py")
        and not (name.startswith("experiments.commands.") and path.stem in PARTS_OF_A_COMMAND)
    }
    assert small == set(SEAMS)


@pytest.mark.parametrize(
    "code",
    [
        "import flex_judge, flex_judge.judges, flex_judge.reward, flex_judge.alignment, flex_judge.experiments",
        "import flex_judge.experiments.commands.demo.run, flex_judge.experiments.commands.report.run",
        "import flex_judge.reward.serving.service, flex_judge.alignment.policies.config",
        "from flex_judge.experiments.cli import main; main([])",
    ],
)
def test_imports_and_help_load_no_heavy_library(code: str) -> None:
    check = f"{code}\nimport sys\nprint('HEAVY', *({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1].split() == ["HEAVY"]
