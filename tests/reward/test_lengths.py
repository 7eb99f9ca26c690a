"""Length penalty, and the regression of rewards on lengths."""

from __future__ import annotations

import pytest

from flex_judge.judges.types import Message, ToolCall, Trajectory
from flex_judge.reward.integrations.lengths import compute_length_penalty, count_words, regress_on_length
from flex_judge.reward.settings import RewardSettings


def test_words_of_the_policy_count_and_those_of_tools_do_not() -> None:
    assert count_words("two words") == 2
    assert count_words("") == 0
    call = Message("assistant", "I add.", tool_calls=(ToolCall("add", '{"a": 1}'),), reasoning="one two three")
    assert count_words(Trajectory((call, Message("tool", "a long result"), Message("assistant", "It is 3.")))) == 10


@pytest.mark.parametrize(("length", "penalty"), [(0, 0.0), (100, 0.0), (101, 0.02), (120, 0.4), (150, 1.0), (900, 1.0)])
def test_the_penalty_is_linear_beyond_the_limit_up_to_its_maximum(length: int, penalty: float) -> None:
    settings = RewardSettings(length_penalty=0.02, length_limit=100, max_length_penalty=1.0)
    assert compute_length_penalty(length, settings) == pytest.approx(penalty)


def test_no_penalty_without_a_limit() -> None:
    assert compute_length_penalty(1e6, RewardSettings()) == 0
    unlimited = RewardSettings(length_penalty=0.5, length_limit=0)
    assert compute_length_penalty(10, unlimited) == 5


def test_soft_overlong_punishment_of_dapo_is_a_special_case() -> None:
    maximum, cache = 1280, 256

    def punish(length: int) -> float:
        """Equation 13 of arXiv 2503.14476."""
        if length <= maximum - cache:
            return 0.0
        return (maximum - cache - length) / cache if length <= maximum else -1.0

    settings = RewardSettings(length_penalty=1 / cache, length_limit=maximum - cache, max_length_penalty=1.0)
    for length in (0, 1023, 1024, 1025, 1152, 1279, 1280, 1281, 5000):
        assert -compute_length_penalty(length, settings) == pytest.approx(punish(length))


def test_rewards_are_regressed_on_lengths_within_each_prompt() -> None:
    # The longer prompt b has lower rewards, but within each prompt a word more is worth 0.5.
    rewards, lengths, prompts = (
        [5.0, 6.0, 1.0, 2.0, None, 9.0],
        [10, 12, 50, 52, 90, None],
        ["a", "a", "b", "b", "b", "b"],
    )
    regression = regress_on_length(rewards, lengths, prompts)
    assert regression is not None
    assert regression.slope == pytest.approx(0.5)
    assert regression.correlation == pytest.approx(1.0)


def test_a_slope_agrees_with_least_squares() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    lengths, rewards = rng.integers(1, 200, 64).astype(float), rng.normal(size=64)
    regression = regress_on_length(rewards.tolist(), lengths.tolist(), ["same"] * 64)
    assert regression is not None
    assert regression.slope == pytest.approx(np.polyfit(lengths, rewards, 1)[0])
    assert regression.correlation == pytest.approx(np.corrcoef(lengths, rewards)[0, 1])


def test_equal_lengths_have_no_slope_and_equal_rewards_no_correlation() -> None:
    assert regress_on_length([1.0, 2.0], [7, 7], ["a", "a"]) is None
    assert regress_on_length([1.0, 2.0], [7, 8], ["a", "b"]) is None
    assert regress_on_length([], [], []) is None
    constant = regress_on_length([0.1, 0.1, 0.1], [1, 2, 4], ["a"] * 3)
    assert constant is not None
    assert (constant.slope, constant.correlation) == (0.0, None)
