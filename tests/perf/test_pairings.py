"""Methods of comparing a group on a simulated judge: Swiss rounds keep most of the accuracy of a round robin."""

from __future__ import annotations

import pytest

from flex_judge.experiments.commands.bench import BenchResult
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf.pairings import PairingsConfig, run

COMPARISONS = {"knockout": 15, "circular": 16, "swiss": 32, "round_robin": 120}


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return run(PairingsConfig(groups=60))


def test_swiss_rounds_keep_most_of_the_rank_correlation(result: BenchResult) -> None:
    assert result.met
    assert 0.75 <= result.ratio < 1


def test_more_comparisons_rank_better(result: BenchResult) -> None:
    rows = {row["method"]: row for row in result.details["by_method"] if row["completions"] == 16}
    assert {method: row["comparisons"] for method, row in rows.items()} == COMPARISONS
    assert rows["circular"]["rank_correlation"] < rows["swiss"]["rank_correlation"]
    assert rows["swiss"]["rank_correlation"] < rows["round_robin"]["rank_correlation"]
    assert all(row["best_first"] > 2 / 16 for row in rows.values())  # a random choice is right in 1 of 16 groups


def test_same_seed_gives_the_same_result() -> None:
    assert run(PairingsConfig(groups=3)) == run(PairingsConfig(groups=3)) != run(PairingsConfig(groups=3, seed=1))


@pytest.mark.parametrize(("settings", "flag"), [({"groups": 0}, "--groups"), ({"spread": 0.0}, "--spread")])
def test_invalid_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(PairingsConfig, **settings)
