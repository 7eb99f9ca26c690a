"""Adaptive voting compared with fixed voting, and the command line shared by all measurements."""

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


def test_prints_one_json_object_with_five_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--comparisons", "300", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["name", "ratio", "goal", "met", "details"]
    assert (result["name"], result["goal"], result["met"]) == ("votes", 0.5, True)
    assert result["details"]["comparisons"] == 300


def test_prints_tables_without_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["votes", "--comparisons", "50"])
    out = capsys.readouterr().out
    for word in ("bench votes", "ratio", "goal", "same decision", "by noise", "by confidence", "adaptive"):
        assert word in out
    assert "…" not in out


def test_exits_with_1_if_the_goal_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--comparisons", "50", "--confidence", "1", "--noise", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["met"] is False


def test_reads_settings_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_invalid_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(VotesConfig, **settings)


def test_every_measurement_has_help() -> None:
    for name in BENCHES:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])


def test_exits_with_2_for_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["votes", "--votes", "0"]) == 2
    assert "--votes must be" in capsys.readouterr().err


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return votes.run(VotesConfig(comparisons=2000))


def test_adaptive_voting_halves_the_votes_and_keeps_the_decisions(result: BenchResult) -> None:
    assert result.met
    assert result.ratio <= 0.5
    assert result.details["same_decision"] >= 0.98


def test_full_confidence_keeps_every_decision(result: BenchResult) -> None:
    (certain,) = [row for row in result.details["by_confidence"] if row["confidence"] == 1.0]
    assert certain["same"] == 1.0
    assert result.ratio < certain["ratio"] < 1.0


def test_more_noise_needs_more_votes(result: BenchResult) -> None:
    ratios = [row["ratio"] for row in result.details["by_noise"]]
    assert ratios == sorted(ratios)
    agreeing = [row["one_vote_agrees"] for row in result.details["by_noise"]]
    assert agreeing == sorted(agreeing, reverse=True)


def test_reports_levels_that_miss_the_goal(result: BenchResult) -> None:
    for row in (*result.details["by_noise"], *result.details["by_confidence"]):
        assert row["met"] == (row["ratio"] <= 0.5 and row["same"] >= 0.98)
    assert not all(row["met"] for row in result.details["by_noise"])


def test_seed_determines_the_result() -> None:
    first, repeated, different = (votes.run(VotesConfig(comparisons=100, seed=seed)) for seed in (3, 3, 4))
    assert first == repeated
    assert first.ratio != different.ratio


def test_judge_without_noise_needs_the_fewest_votes() -> None:
    result = votes.run(VotesConfig(comparisons=50, noise=0.0))
    assert result.ratio == pytest.approx(4 / 15)
    assert result.details["same_decision"] == 1.0
