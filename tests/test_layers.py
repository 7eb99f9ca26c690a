"""Structure of the source: imports point to lower layers, light modules stay light, import chains stay short.

`python -m pytest tests/test_layers.py -s` prints the longest import chains and the subpackages of each package.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from import_graph import LAYERS, PACKAGE, ImportGraph, find_longest_chain
from repository import ROOT

HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "datasets", "scipy"}
SOURCES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
MAX_LINES = 300
MAX_SUBPACKAGES = 14
MAX_CHAIN_AT_MODULE_LEVEL, MAX_CHAIN_ANYWHERE = 14, 20
SMALL = 80
"""Line count below which a module with a single importer must be merged into it, unless it is a seam."""
SEAMS = {"reward.integrations.verl_manager": "imports verl, which its only importer must not do"}
"""Small module with a single importer -> reason for keeping it separate."""
PARTS_OF_A_COMMAND = ("config", "run", "view")
"""Modules of every command, whatever their size."""


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph(ROOT)


def list_imports(path: Path) -> set[str]:
    """List the packages that a module imports anywhere; layers of this project appear by their own name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    layers = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return layers | {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_to_lower_layers_only(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not list_imports(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_judges_import_no_ray_or_trl_and_vllm_only_in_its_engine(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "judges":
        assert not list_imports(path) & {"ray", "trl"}
        assert "vllm" not in list_imports(path) or path.parent.name == "vllm"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_a_docstring_and_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= MAX_LINES


def test_import_chains_are_short(graph: ImportGraph) -> None:
    at_module_level, anywhere = find_longest_chain(graph.at_module_level), find_longest_chain(graph.anywhere)
    print(f"\nlongest chain of module-level imports: {len(at_module_level)}: {' > '.join(at_module_level)}")
    print(f"longest chain of imports anywhere: {len(anywhere)}: {' > '.join(anywhere)}")
    assert len(at_module_level) <= MAX_CHAIN_AT_MODULE_LEVEL
    assert len(anywhere) <= MAX_CHAIN_ANYWHERE


def test_subpackages_import_each_other_one_way(graph: ImportGraph) -> None:
    assert not graph.find_circular_imports()


@pytest.mark.parametrize("package", LAYERS)
def test_package_has_few_subpackages(graph: ImportGraph, package: str) -> None:
    subpackages = graph.list_subpackages(package)
    print(f"\n{package}: {len(subpackages)} subpackages: {', '.join(subpackages)}")
    assert len(subpackages) <= MAX_SUBPACKAGES


def test_small_modules_with_one_importer_are_seams(graph: ImportGraph) -> None:
    importers = graph.map_importers()
    small = {
        name
        for name, path in graph.paths.items()
        if len(importers[name]) == 1
        and graph.count_lines(name) < SMALL
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
