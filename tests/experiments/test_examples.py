"""The scripts of experiments/examples run, are short and use public names only."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT
from tiny_models import tiny_qwen_vl

FOLDER = ROOT / "experiments" / "examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
MIN_LINES, MAX_LINES = 20, 40

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run an example in an empty folder and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run_example(name: str, *flags: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *flags])
        capfd.readouterr()
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out

    return run_example


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_and_explains_itself(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert MIN_LINES <= len(text.splitlines()) <= MAX_LINES
    assert "\n\nShows " in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_imports_public_names_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flex_judge"):
            public = importlib.import_module(str(node.module)).__all__
            assert {alias.name for alias in node.names} <= set(public)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_guide_links_to_the_example(path: Path) -> None:
    pages = [page for folder in ("guides", "trainers") for page in (ROOT / "docs" / folder).glob("*.md")]
    assert any(f"examples.md#{path.stem})" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.slow
def test_judge_answer(run: Run) -> None:
    output = run("judge_answer", "--engine", "transformers")
    assert "one answer: ok, scores (5.0,)" in output
    assert "preferred: response B, orders disagree: 0%" in output


@pytest.mark.slow
def test_own_rubric(run: Run) -> None:
    output = run("own_rubric", "--engine", "transformers")
    assert output.startswith("scale: 1-5\nok: score (")
    assert Path("brevity.toml").is_file()


@pytest.mark.slow
def test_judge_image(run: Run, tmp_path: Path) -> None:
    judge = str(tiny_qwen_vl(tmp_path / "judge"))
    output = run("judge_image", "--engine", "transformers", "--judge", judge, "--max-think-tokens", "16")
    assert re.match(r"ok: scores \(\d+\.0, \d+\.0\)", output)


@pytest.mark.slow
def test_serve_and_ask(run: Run) -> None:
    output = run("serve_and_ask", "--engine", "scripted", "--judge", "scripts:fair_judge")
    preferred = re.search(r"^preferred: (0|1|None)$", output, re.MULTILINE)
    assert preferred
    rewards = {"0": "[1.0, 0.0]", "1": "[0.0, 1.0]", "None": "[0.5, 0.5]"}[preferred[1]]
    assert f"rewards: {rewards}" in output


@pytest.mark.slow
def test_grpo_with_trl(run: Run) -> None:
    output = run("grpo_with_trl", "--engine", "transformers", "--steps", "1")
    assert re.search(r"^mean rewards: \[[1-5]\.?\d*\]$", output, re.MULTILINE)


@pytest.mark.slow
def test_best_of_n(run: Run) -> None:
    scores = re.findall(r"^expected score (\d\.\d\d): ", run("best_of_n", "--engine", "transformers"), re.MULTILINE)
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_preferences_to_dpo(run: Run) -> None:
    output = run("preferences_to_dpo", "--engine", "transformers", "--steps", "2")
    assert "It is 8. > It is 9." in output
    assert re.search(r"^losses: \[0\.\d+, 0\.\d+\]$", output, re.MULTILINE)


@pytest.mark.slow
def test_evaluate_judge(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "What is 6 + 7?", "responses": ["6 + 7 = 14", "6 + 7 = 13"], "label": 1}\n')
    output = run("evaluate_judge", "--engine", "transformers", "--data", str(data))
    assert output == "agreement 100.0%, ties and unscored 0.0%, of 1 pairs\n"
