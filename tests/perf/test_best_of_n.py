"""Halving against the exhaustive way on a made-up judge: what is measured, and that the goal is met."""

from __future__ import annotations

import json

import pytest

from flex_judge.experiments.commands.bench import BenchResult
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf.__main__ import main
from tests.perf.best_of_n import BestOfNConfig, run


@pytest.fixture(scope="module")
def measured() -> BenchResult:
    return run(BestOfNConfig(seeds=1))


def test_halving_needs_less_than_half_of_the_tokens_and_chooses_as_well(measured: BenchResult) -> None:
    assert measured.met
    assert measured.ratio <= 0.5
    assert measured.details["worst_regret"] <= measured.details["worst_loss"] <= 0.01
    assert measured.ratio == max(row["ratio"] for row in measured.details["by_seed"])


def test_no_more_judgments_are_asked_for_than_the_budget_allows(measured: BenchResult) -> None:
    for row in (*measured.details["by_seed"], *measured.details["by_noise"]):
        assert 16 <= row["judgments"] <= 0.5 * 8 * 16


def test_the_exhaustive_way_and_halving_are_both_better_than_a_single_judgment(measured: BenchResult) -> None:
    for row in measured.details["short_of_the_best_by_noise"]:
        assert row["one_judgment"] > max(row["exhaustive"], row["halving"])
    noisy = [row["exhaustive"] for row in measured.details["short_of_the_best_by_noise"]]
    assert noisy[0] < noisy[-1]


def test_levels_of_noise_where_the_goal_is_not_met_are_reported_as_such(measured: BenchResult) -> None:
    for row in measured.details["by_noise"]:
        assert row["met"] == (row["ratio"] <= 0.5 and row["loss"] <= 0.01)


def test_the_same_seed_measures_the_same() -> None:
    config = BestOfNConfig(prompts=5, seeds=1, samples=4)
    assert run(config) == run(config)
    assert run(config) != run(BestOfNConfig(prompts=5, seeds=1, samples=4, seed=1))


def test_the_measurement_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_impossible_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(BestOfNConfig, **settings)
