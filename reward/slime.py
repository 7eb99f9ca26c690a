"""The judge as slime's custom reward function, for single samples and for whole groups.

    --custom-rm-path flex_judge.reward.slime.judge_reward --group-rm

Settings are environment variables of the rollout process: `FLEX_JUDGE_URL`, or `--rm-url` without its path `/rm`;
`FLEX_JUDGE_API_KEY`, `FLEX_JUDGE_RUBRIC`, `FLEX_JUDGE_METHOD`, `FLEX_JUDGE_REWARD`, `FLEX_JUDGE_VIEW`, and so on, see
`SlimeSettings`.

slime has no reward for an unscored completion. With `--group-rm`, such a sample gets the mean of the scored samples of
its group, which does not change this mean, and the mark `remove_sample`, so slime masks its loss. Without
`--group-rm` the group is not known here, so this needs a second function, which then normalizes each group without its
unscored samples:

    --custom-reward-post-process-path flex_judge.reward.slime.normalize_rewards
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Self

from pydantic import ValidationError, model_validator

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.reward.integrations.end_of_turn import END_OF_TURN, strip_end_of_turn
from flex_judge.reward.integrations.environment import name_variable
from flex_judge.reward.integrations.service import ServiceSettings, judge_rows, require_values
from flex_judge.reward.integrations.training import UnscoredStreak, get_run_id
from flex_judge.reward.types import Reward

RM_PATH = "/rm"
POST_PROCESS_PATH = "flex_judge.reward.slime.normalize_rewards"
GROUP_NORMALIZED = ("grpo", "gspo", "cispo", "reinforce_plus_plus_baseline")
"""Values of slime's --advantage-estimator that center the rewards of a group."""
STD_NORMALIZED = ("grpo", "gspo", "cispo")
"""Values that also divide them by their standard deviation."""
EPSILON = 1e-6
_streak = UnscoredStreak()

__all__ = ["SlimeSettings", "judge_reward", "normalize_rewards"]


class SlimeSettings(ServiceSettings):
    """Settings of `judge_reward`, each from the environment variable `FLEX_JUDGE_` and its name in capitals."""

    view: View = "full"
    """Part of a response with several messages that the judge sees: all of it, or the final answer."""

    @model_validator(mode="after")
    def check_group(self) -> Self:
        """Refuse settings that are for other frameworks."""
        if self.group_size is not None:
            raise ValueError("group_size: slime passes whole groups with --group-rm; remove the setting")
        return self


async def judge_reward(args: Any, sample: Any, **_: Any) -> Any:
    """Judge one sample, or all samples of a group with `--group-rm`.

    The judge sees `sample.prompt` and `sample.response`, without the tokens that close a turn. Fields of
    `sample.metadata` take precedence or are added: `prompt` (text or messages without a chat template), `images`,
    `videos`, `audios`, `molecules`, `tools`, and `baseline` for the method of that name; `response` may hold the
    messages of a rollout with tools.

    Args:
        args: slime's arguments.
        sample: a `slime.utils.types.Sample`, or a list of them.

    Returns:
        The reward, or a list of rewards. With `--reward-key`, each is a dict with this key, `judge_status` and
        `judge_score`.

    Raises:
        UsageError: a setting is invalid, or completions are compared without `--group-rm`.
        UnscoredError: a sample has no score, and slime can neither mask it nor leave it out; or several calls in a row
            had no score at all.
        ServiceUnavailableError: the service judges nothing in consecutive calls.
    """
    samples = sample if isinstance(sample, list) else [sample]
    settings = _read_settings(getattr(args, "rm_url", None) or "", tuple(_list_variables()))
    spec, is_group = settings.build_spec(), bool(getattr(args, "group_rm", False))
    if spec.needs_group and not is_group:
        raise UsageError("completions are compared with each other, which needs whole groups; add --group-rm")
    rows = [_build_row(s, settings) for s in samples]
    rewards = await judge_rows(settings.build_client(), spec, rows, settings.view)
    _streak.check_rewards(rewards)
    for judged, reward in zip(samples, rewards, strict=True):
        judged.metadata = {**(judged.metadata or {}), "judge_status": str(reward.status)}
    fill_value = math.nan
    if getattr(args, "custom_reward_post_process_path", None) != POST_PROCESS_PATH:
        if not is_group:
            _require_scores(rewards)
        fill_value = _compute_mean([r.value for r in rewards if r.value is not None])
    values = []
    for judged, reward in zip(samples, rewards, strict=True):
        if reward.value is None:
            judged.remove_sample = True
        values.append(_build_value(args, fill_value if reward.value is None else reward.value, reward))
    return values if isinstance(sample, list) else values[0]


def normalize_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Normalize rewards within each group as slime does, but without the samples whose reward is NaN.

    Such a sample has the advantage 0 and no part in the loss, and the others have the advantages of a group without it.

    Args:
        args: slime's arguments.
        samples: all samples of a rollout.

    Returns:
        The raw and the normalized rewards. The raw reward of an unscored sample is the mean of its group.
    """
    groups: dict[Any, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.group_index, []).append(i)
    raw = [float(sample.get_reward_value(args)) for sample in samples]
    is_centered = args.advantage_estimator in GROUP_NORMALIZED and args.rewards_normalization
    divides = args.advantage_estimator in STD_NORMALIZED and args.grpo_std_normalization
    normalized = list(raw)
    for members in groups.values():
        scored = [raw[i] for i in members if not math.isnan(raw[i])]
        mean = _compute_mean(scored)
        deviation = (statistics.stdev(scored) if len(scored) > 1 else 0.0) if divides else 1.0 - EPSILON
        for i in members:
            if math.isnan(raw[i]):
                samples[i].remove_sample = True
                raw[i] = mean
            normalized[i] = (raw[i] - mean) / (deviation + EPSILON) if is_centered else raw[i]
    return raw, normalized


def _list_variables() -> list[tuple[str, str]]:
    """List the settings of SlimeSettings in the environment; other variables of this project are left out."""
    names = {name_variable(name): name for name in SlimeSettings.model_fields}
    return sorted((names[name], value) for name, value in os.environ.items() if name in names and value.strip())


@cache
def _read_settings(rm_url: str, variables: tuple[tuple[str, str], ...]) -> SlimeSettings:
    values = {"url": rm_url.removesuffix("/").removesuffix(RM_PATH), "run": get_run_id(), **dict(variables)}
    try:
        return SlimeSettings.model_validate(values)
    except ValidationError as e:
        error = e.errors(include_url=False)[0]
        names = "".join(f"{name_variable(str(name))}: " for name in error["loc"])
        raise UsageError(f"{names}{error['msg'].removeprefix('Value error, ')}") from e


def _build_row(sample: Any, settings: SlimeSettings) -> dict[str, Any]:
    """Build the arguments of `RowConverter.build_sample`."""
    metadata = sample.metadata if isinstance(sample.metadata, Mapping) else {}
    response = metadata.get("response")
    needs_baseline = settings.method == "baseline"
    return {
        "prompt": sample.prompt if metadata.get("prompt") is None else metadata["prompt"],
        "response": strip_end_of_turn(sample.response, END_OF_TURN) if response is None else response,
        "columns": {name: metadata[name] for name in PROMPT_COLUMNS if metadata.get(name) is not None},
        "baseline": metadata.get("baseline") if needs_baseline else None,
        "baseline_column": "baseline" if needs_baseline else None,
        "group": f"{settings.run} {sample.group_index}",
    }


def _build_value(args: Any, value: float, reward: Reward) -> Any:
    """Build what slime stores as the reward: a number, or a dict if it selects the number by a key."""
    names = {getattr(args, name, None) for name in ("reward_key", "eval_reward_key")} - {None}
    if not names:
        return value
    return {"judge_status": str(reward.status), "judge_score": reward.score, **dict.fromkeys(names, value)}


def _require_scores(rewards: Sequence[Reward]) -> None:
    try:
        require_values(rewards)
    except UnscoredError as e:
        raise UnscoredError(
            f"{e}; slime cannot leave out a sample that is judged alone: add --group-rm, or "
            f"--custom-reward-post-process-path {POST_PROCESS_PATH}"
        ) from e


def _compute_mean(values: Sequence[float]) -> float:
    """Compute the mean; 0 without values, which is harmless where all samples are left out of the loss."""
    return sum(values) / len(values) if values else 0.0
