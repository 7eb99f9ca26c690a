"""From a judgment to a reward: a number where there is one, and nothing where there is none."""

from __future__ import annotations

import pytest

from judges import Judgment, Status
from reward.scoring import REWARDS, expected_score, written_score


def judgment(scores: tuple[float, ...] | None, expected: tuple[float, ...] | None = None) -> Judgment:
    return Judgment("a", Status.OK, scores, expected, "")


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
@pytest.mark.parametrize("reward", REWARDS)
def test_a_failed_judgment_has_no_reward(status: Status, reward: str) -> None:
    assert REWARDS[reward](Judgment.unscored("a", status, "why")) is None


def test_the_rewards_of_a_judgment_are_its_written_and_its_expected_score() -> None:
    assert set(REWARDS) == {"score", "expected"}
    assert REWARDS["score"](judgment((4.0,), (3.6,))) == 4.0
    assert REWARDS["expected"](judgment((4.0,), (3.6,))) == 3.6


def test_a_score_of_zero_is_a_reward() -> None:
    assert written_score(judgment((0.0,), (0.0,))) == 0.0
    assert expected_score(judgment((0.0,), (0.0,))) == 0.0


def test_an_engine_without_log_probabilities_gives_no_expected_score() -> None:
    assert expected_score(judgment((4.0,))) is None


def test_the_reward_of_a_pair_is_that_of_its_first_response() -> None:
    assert written_score(judgment((2.0, 5.0), (2.5, 4.5))) == 2.0
    assert expected_score(judgment((2.0, 5.0), (2.5, 4.5))) == 2.5
