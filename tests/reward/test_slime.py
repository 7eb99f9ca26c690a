"""The reward function of slime: its settings. `tests/compat` runs it with slime itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from served import free_port

from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.reward.slime import SlimeSettings, judge_reward, normalize_rewards


def make_sample(**fields: Any) -> SimpleNamespace:
    values = {"prompt": "What is 2 + 3?", "response": "5", "group_index": 0, "metadata": {}, "remove_sample": False}
    return SimpleNamespace(**{**values, **fields})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "FLEX_JUDGE_URL"),
        ({"FLEX_JUDGE_URL": "nowhere"}, "url must begin with http:// or https://"),
        ({"FLEX_JUDGE_URL": "http://a", "FLEX_JUDGE_METHOD": "best"}, "FLEX_JUDGE_METHOD: "),
        ({"FLEX_JUDGE_URL": "http://a", "FLEX_JUDGE_GROUP_SIZE": "4"}, "--group-rm"),
        ({"FLEX_JUDGE_URL": "http://a", "FLEX_JUDGE_DEADLINE_S": "soon"}, "FLEX_JUDGE_DEADLINE_S: "),
        ({"FLEX_JUDGE_URL": "http://a", "FLEX_JUDGE_METHOD": "round_robin"}, "add --group-rm"),
    ],
)
async def test_invalid_settings_are_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEX_JUDGE_URL", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        await judge_reward(SimpleNamespace(rm_url=None, group_rm=False), make_sample())


def test_the_url_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEX_JUDGE_URL", "http://10.0.0.1:8000")
    assert SlimeSettings().url == "http://10.0.0.1:8000"
    assert SlimeSettings(url="http://10.0.0.2:8000").url == "http://10.0.0.2:8000"


def make_scored(*values: float) -> list[SimpleNamespace]:
    return [make_sample(group_index=i // 3, get_reward_value=lambda _, v=v: v) for i, v in enumerate(values)]


@pytest.mark.parametrize("estimator", ["grpo", "reinforce_plus_plus_baseline", "ppo"])
def test_unscored_samples_have_no_part_in_their_group(estimator: str) -> None:
    args = SimpleNamespace(advantage_estimator=estimator, rewards_normalization=True, grpo_std_normalization=True)
    nan = float("nan")
    samples = make_scored(1.0, nan, 3.0, nan, nan, nan)
    raw, normalized = normalize_rewards(args, samples)
    assert raw == [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    assert [sample.remove_sample for sample in samples] == [False, True, False, True, True, True]
    expected = {
        "grpo": [-(0.5**0.5), 0.0, 0.5**0.5],
        "reinforce_plus_plus_baseline": [-1.0, 0.0, 1.0],
        "ppo": [1.0, 2.0, 3.0],
    }
    assert normalized == pytest.approx([*expected[estimator], 0.0, 0.0, 0.0], abs=1e-5)


async def test_a_dead_service_never_gives_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEX_JUDGE_DEADLINE_S", "0.2")
    # A port of its own: a client counts the calls without an answer for each address.
    args = SimpleNamespace(rm_url=f"http://127.0.0.1:{free_port()}/rm", group_rm=False)
    with pytest.raises(UnscoredError, match=r"timeout: .*--group-rm"):
        await judge_reward(args, make_sample())
