"""Dotted names that users put into settings of other programs can be resolved."""

from __future__ import annotations

import pkgutil
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import flex_judge


@pytest.mark.parametrize(
    "name",
    [
        "flex_judge.reward.app:build",  # serve run
        "flex_judge.reward.verl:compute_score",  # reward.custom_reward_function
        "flex_judge.reward.verl:compute_score_sync",
        "flex_judge.reward.trl:JudgeReward",
        "flex_judge.reward.slime:judge_reward",  # --custom-rm-path
        "flex_judge.reward.slime:normalize_rewards",
        "flex_judge.experiments.cli:main",
    ],
)
def test_dotted_names_are_callables_of_this_package(name: str) -> None:
    value = pkgutil.resolve_name(name)
    assert callable(value)
    assert value.__module__.startswith("flex_judge.")


@pytest.mark.parametrize(
    "module",
    [
        "experiments/cli.py",
        "experiments/studies/arithmetic_loop/__main__.py",
        "experiments/studies/grpo_curves/__main__.py",
        "experiments/studies/pampa/__main__.py",
        "judges/models/__main__.py",
        "judges/models/mol_llama/__main__.py",
        "reward/serving/cleanup.py",
    ],
)
def test_modules_for_dash_m_exist(module: str) -> None:
    path = Path(flex_judge.__file__).parent / module
    assert '__name__ == "__main__"' in path.read_text() or path.name == "__main__.py"


def test_the_command_is_an_entry_point() -> None:
    (command,) = entry_points(group="console_scripts", name="flex-judge")
    assert command.value == "flex_judge.experiments.cli:main"
