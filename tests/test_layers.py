"""The structure of the source: imports point one way, light modules stay light, chains stay short.

Run `python -m pytest tests/test_layers.py -s` to see the longest import chains and the number of rooms of each package.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

PACKAGE = "flex_judge"
LAYERS = ("judges", "reward", "alignment", "experiments")
HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "datasets", "scipy"}
SOURCES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


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
def test_nothing_imports_upward(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_judges_know_neither_ray_nor_trl_and_only_its_engine_knows_vllm(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "judges":
        assert not imported(path) & {"ray", "trl"}
        assert "vllm" not in imported(path) or path.parent.name == "vllm"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "import flex_judge, flex_judge.judges, flex_judge.reward, flex_judge.alignment, flex_judge.experiments",
        "import flex_judge.experiments.commands.demo.run, flex_judge.experiments.commands.report.run",
        "import flex_judge.reward.serving.service, flex_judge.alignment.policies",
        "from flex_judge.experiments.cli import main; main([])",
    ],
)
def test_imports_and_help_load_no_heavy_library(code: str) -> None:
    check = f"{code}\nimport sys\nprint('HEAVY', *({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1].split() == ["HEAVY"]
