"""Adaptive voting against fixed voting, and the command line that all measurements share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flex_judge.experiments.commands.bench import BenchResult
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf import votes
from tests.perf.__main__ import BENCHES, main
from tests.perf.votes import VotesConfig


def test_json_is_one_object_with_five_keys_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--comparisons", "300", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["name", "ratio", "goal", "met", "details"]
    assert (result["name"], result["goal"], result["met"]) == ("votes", 0.5, True)
    assert result["details"]["comparisons"] == 300


def test_without_json_a_person_gets_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["votes", "--comparisons", "50"])
    out = capsys.readouterr().out
    for word in ("bench votes", "ratio", "goal", "same decision", "by noise", "by confidence", "adaptive"):
        assert word in out
    assert "…" not in out


def test_a_goal_that_is_not_met_is_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--comparisons", "50", "--confidence", "1", "--noise", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["met"] is False


def test_settings_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.yaml"
    file.write_text("comparisons: 40\ntie-band: 0\n")
    main(["votes", "--config", str(file), "--comparisons", "30", "--json"])
    details = json.loads(capsys.readouterr().out)["details"]
    assert (details["comparisons"], details["tie_band"]) == (30, 0.0)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({"comparisons": 0}, "--comparisons"), ({"votes": 0}, "--votes"), ({"confidence": 1.5}, "--confidence"),
     ({"noise": -1.0}, "--noise"), ({"tie_band": float("nan")}, "--tie-band"), ({"seed": -1}, "--seed")],
)  # fmt: skip
def test_impossible_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(VotesConfig, **settings)


def test_every_bench_has_flags_with_help() -> None:
    for name in BENCHES:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])


def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--votes", "0"]) == 2
    assert "--votes must be" in capsys.readouterr().err


@pytest.fixture(scope="module")
def measured() -> BenchResult:
    return votes.run(VotesConfig(comparisons=2000))


def test_adaptive_voting_halves_the_votes_and_keeps_the_decisions(measured: BenchResult) -> None:
    assert measured.met
    assert measured.ratio <= 0.5
    assert measured.details["same_decision"] >= 0.98


def test_certain_voting_keeps_every_decision(measured: BenchResult) -> None:
    (certain,) = [row for row in measured.details["by_confidence"] if row["confidence"] == 1.0]
    assert certain["same"] == 1.0
    assert measured.ratio < certain["ratio"] < 1.0


def test_the_more_noise_the_more_votes(measured: BenchResult) -> None:
    ratios = [row["ratio"] for row in measured.details["by_noise"]]
    assert ratios == sorted(ratios)
    agreeing = [row["one_vote_agrees"] for row in measured.details["by_noise"]]
    assert agreeing == sorted(agreeing, reverse=True)


def test_levels_where_the_goal_is_not_met_are_reported_as_such(measured: BenchResult) -> None:
    for row in (*measured.details["by_noise"], *measured.details["by_confidence"]):
        assert row["met"] == (row["ratio"] <= 0.5 and row["same"] >= 0.98)
    assert not all(row["met"] for row in measured.details["by_noise"])


def test_the_same_seed_measures_the_same_and_another_one_does_not() -> None:
    first, again, other = (votes.run(VotesConfig(comparisons=100, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first.ratio != other.ratio


def test_a_judge_without_noise_needs_the_least_votes() -> None:
    result = votes.run(VotesConfig(comparisons=50, noise=0.0))
    assert result.ratio == pytest.approx(4 / 15)
    assert result.details["same_decision"] == 1.0
