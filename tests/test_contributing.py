"""Contributor documents: the examples of CONTRIBUTING.md run, and everything that the texts name exists."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from repository import ROOT
from scripts import SETTINGS, fair_judge

from flex_judge import Comparison, FlexJudge, Status, __version__
from flex_judge.experiments.benchmarks import BENCHMARKS
from flex_judge.experiments.cli import main as command_line
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.experiments.commands.eval.run import main as evaluate
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.engines import ENGINES, Engine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.rubrics import list_rubrics, load_rubric

JUDGE_WITHOUT_FALLBACK = replace(SETTINGS, forced_answer=False)
TRAINERS = ("areal", "art", "nemo_gym", "openrlhf", "skyrl", "skyrl_gym", "verifiers")
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
"""Path in the first line of an example -> code of the example."""
RUBRIC = "judges/rubrics/presets/politeness.toml"
ENGINE = "judges/engines/constant.py"
BENCHMARK = "experiments/benchmarks/capitals.py"
TRAINER = "reward/my_trainer.py"


def import_example(path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import an example as a separate module with a unique name."""
    name = f"contributing_{Path(path).stem}"
    (folder / f"{name}.py").write_text(EXAMPLES[path], encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module(name)


def write_rubric(folder: Path) -> str:
    path = folder / Path(RUBRIC).name
    path.write_text(EXAMPLES[RUBRIC], encoding="utf-8")
    return str(path)


def test_every_fenced_block_is_a_tested_example() -> None:
    assert set(EXAMPLES) == {RUBRIC, ENGINE, BENCHMARK, TRAINER}
    assert TEXT.count("```") == 2 * len(EXAMPLES)


@pytest.mark.parametrize("path", [RUBRIC, ENGINE, BENCHMARK, TRAINER])
def test_example_path_is_new_in_an_existing_folder(path: str) -> None:
    assert (ROOT / path).parent.is_dir()
    assert not (ROOT / path).exists()


def test_every_path_in_the_text_exists() -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+(?:[\w.-]+)?)`", TEXT)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_public_module_in_the_text_exists() -> None:
    modules = set(re.findall(r"`(flex_judge(?:\.\w+)*)`", TEXT)) - {"flex_judge.__all__"}
    modules |= {f"flex_judge.reward.{name}" for name in re.findall(r"`\.(\w+)`", TEXT)}
    assert "flex_judge.reward.verl" in modules
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:  # plug-ins import their trainer, which tests/compat installs
            if (e.name or "").partition(".")[0] not in TRAINERS:
                raise


def test_every_marker_in_the_text_exists() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in options["markers"]}
    assert set(re.findall(r'pytest -m "?(?:not )?(\w+)', TEXT)) == markers


def test_every_flag_in_the_security_policy_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line(["serve", "--help"])
    flags = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))) - {"--version"}
    assert len(named) > 5
    assert named <= flags


def test_citation_has_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__


def test_rubric_example_loads_and_judges(tmp_path: Path) -> None:
    name = write_rubric(tmp_path)
    rubric = load_rubric(name)
    assert (str(rubric.scale), rubric.example, rubric.responses) == ("1-5", ("2", "4"), (1, 2))
    assert Path(RUBRIC).stem not in list_rubrics()
    judge = FlexJudge(ScriptedEngine(fair_judge), SETTINGS)
    (judgment,) = judge.judge([Comparison.of("Hi", "Hello!", "What?", rubric=name)])
    assert judgment.status is Status.OK
    assert judgment.scores is not None
    assert len(judgment.scores) == 2


def test_engine_example_registers_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_example(ENGINE, tmp_path, monkeypatch)
    monkeypatch.setitem(ENGINES, "constant", f"{module.__name__}:load")
    judge = FlexJudge.from_pretrained("any-model", engine="constant", max_think_tokens=64)
    assert isinstance(judge.engine, Engine)
    (judgment,) = judge.judge([Comparison.of("Hi", "Hello!", rubric=write_rubric(tmp_path))])
    judge.close()
    judge.close()
    assert (judgment.status, judgment.scores, judgment.expected_scores) == (Status.OK, (4.0,), (4.0,))
    assert judgment.reasoning == "It is polite."
    assert judgment.model == "any-model"


def test_benchmark_example_scores_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = import_example(BENCHMARK, tmp_path, monkeypatch).Capitals()
    monkeypatch.setitem(BENCHMARKS, benchmark.spec.name, benchmark)
    good, bad = "says=9", "says=2"  # the scripted judge gives the scores written in the answers
    rows: list[dict[str, Any]] = [
        {"question": "The capital of France?", "first": good, "second": bad, "better": "1"},
        {"question": "The capital of Peru?", "first": good, "second": bad, "better": "2"},
    ]
    data = tmp_path / "capitals.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judge: dict[str, Any] = {"engine": "scripted", "model": "scripts:whole_judge", "max_think_tokens": 400}
    summary = evaluate(benchmark, make_config(EvalRun, data=(str(data),), out=str(tmp_path / "run"), **judge))
    figures = summary["tasks"]["pair"]["figures"]
    assert (figures["agreement"]["value"], figures["agreement"]["count"]) == (0.5, 2)


def test_trainer_example_computes_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_example(TRAINER, tmp_path, monkeypatch)
    judge = FlexJudge(ScriptedEngine(fair_judge), JUDGE_WITHOUT_FALLBACK)
    rewards = module.MyTrainerReward(judge, rubric="general", reward="score")(["Hi"] * 2, ["Hello!", "mumble"])
    assert isinstance(rewards[0], float)
    assert rewards[1] is None
