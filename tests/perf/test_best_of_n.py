"""Halving compared with the exhaustive side on a simulated judge: the measurement, and that the goal is met."""

from __future__ import annotations

import json

import pytest

from flex_judge.experiments.commands.bench import BenchResult
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf.__main__ import main
from tests.perf.best_of_n import BestOfNConfig, run


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return run(BestOfNConfig(seeds=1))


def test_halving_needs_less_than_half_of_the_tokens_without_loss(result: BenchResult) -> None:
    assert result.met
    assert result.ratio <= 0.5
    assert result.details["worst_regret"] <= result.details["worst_loss"] <= 0.01
    assert result.ratio == max(row["ratio"] for row in result.details["by_seed"])


def test_halving_stays_within_its_budget(result: BenchResult) -> None:
    for row in (*result.details["by_seed"], *result.details["by_noise"]):
        assert 16 <= row["judgments"] <= 0.5 * 8 * 16


def test_both_sides_beat_a_single_judgment(result: BenchResult) -> None:
    for row in result.details["short_of_the_best_by_noise"]:
        assert row["one_judgment"] > max(row["exhaustive"], row["halving"])
    shortfalls = [row["exhaustive"] for row in result.details["short_of_the_best_by_noise"]]
    assert shortfalls[0] < shortfalls[-1]


def test_reports_noise_levels_that_miss_the_goal(result: BenchResult) -> None:
    for row in result.details["by_noise"]:
        assert row["met"] == (row["ratio"] <= 0.5 and row["loss"] <= 0.01)


def test_same_seed_gives_the_same_result() -> None:
    config = BestOfNConfig(prompts=5, seeds=1, samples=4)
    assert run(config) == run(config)
    assert run(config) != run(BestOfNConfig(prompts=5, seeds=1, samples=4, seed=1))


def test_command_runs_the_measurement_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["best-of-n", "--prompts", "3", "--seeds", "1", "--budget", "1", "--votes", "2", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["name", "ratio", "goal", "met", "details"]
    assert (result["name"], status) == ("best-of-n", 0 if result["met"] else 1)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"prompts": 0}, "--prompts"), ({"samples": 1}, "--samples"), ({"votes": 0}, "--votes"),
     ({"noise": -1.0}, "--noise"), ({"spread": 0.0}, "--spread"), ({"budget": 2.0}, "--budget"),
     ({"confidence": 0.1}, "--confidence"), ({"seeds": 0}, "--seeds")],
)  # fmt: skip
def test_invalid_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(BestOfNConfig, **settings)
