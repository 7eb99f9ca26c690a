"""The structure holds: imports point one way, and the light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("judges", "reward", "alignment", "experiments")
HEAVY = {"torch", "ray", "vllm", "transformers", "trl", "datasets", "scipy"}
SOURCES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_upward(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    assert not imported(path) & set(LAYERS[layer + 1 :])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_judges_know_neither_ray_nor_trl_and_only_its_engine_knows_vllm(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "judges":
        assert not imported(path) & {"ray", "trl"}
        assert "vllm" not in imported(path) or path.name.startswith("vllm")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "code",
    [
        "import judges, reward, alignment, experiments",
        "import experiments.demo, experiments.report, reward.service, alignment.policies",
        "from experiments.cli import main; main([])",
    ],
)
def test_imports_and_help_load_no_heavy_library(code: str) -> None:
    check = f"{code}\nimport sys\nprint('HEAVY', *({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1].split() == ["HEAVY"]
