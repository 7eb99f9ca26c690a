"""Early comparisons against waiting for the complete group: the measurement runs and reports both sides."""

from __future__ import annotations

import pytest

from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf.arrivals import METHODS, SPREADS, ArrivalsConfig, run


def test_measures_both_sides_of_every_method() -> None:
    result = run(ArrivalsConfig(seconds=0.001, repeats=1, largest=4))
    rows = result.details["groups"]
    assert [row["completions"] for row in rows] == [2, 2, 2, 4, 4, 4] * len(METHODS)
    assert [row["spread"] for row in rows] == [*SPREADS] * 2 * len(METHODS)
    assert all(min(row["judging_s"], row["waiting_s"], row["early_s"]) > 0 for row in rows)
    assert result.met == (result.ratio >= result.goal)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"seconds": 0.0}, "--seconds"),
        ({"slots": 0}, "--slots"),
        ({"repeats": 0}, "--repeats"),
        ({"largest": 3}, "--largest"),
    ],
)
def test_invalid_settings_name_their_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} must be"):
        make_config(ArrivalsConfig, **settings)
