"""The judge for ART (openpipe-art): scores whole trajectory groups, in the place of RULER or after it.

    groups = await art.gather_trajectory_groups(
        (art.TrajectoryGroup(rollout(model, scenario) for _ in range(8)) for scenario in scenarios),
        after_each=GroupJudge("http://10.0.0.1:8000", method="round_robin", reward="win_rate"),
    )

A trajectory without a score is moved to the exceptions of its group, where ART keeps failed rollouts: it is not trained
on, and the rewards of the others are normalized without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.conversations.messages import ASSISTANT, View
from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.judges.validation.floats import require_finite_float
from flex_judge.reward.integrations.converted import ConvertedRows
from flex_judge.reward.integrations.scoring import ConversationScorer
from flex_judge.reward.integrations.training import UnscoredStreak
from flex_judge.reward.types import Reward

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.reward.client.client import JudgeClient

__all__ = ["GroupJudge"]

logger = logging.getLogger(__name__)


class GroupJudge:
    """Judge of trajectory groups, for `after_each` of `art.gather_trajectory_groups` or inside a rollout function.

    Example:
        >>> judge = GroupJudge("http://127.0.0.1:8000", method="round_robin", reward="win_rate")
        >>> group = await judge(group)
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        *,
        independent_weight: float = 0.0,
        api_key: str | None = None,
        deadline_s: float | None = None,
        view: View = "full",
        **spec: Any,
    ) -> None:
        """Configure the judge.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            independent_weight: weight of the reward that a trajectory already has, which is added to the judge's. 0
                replaces it, as RULER does.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            view: what the judge sees of a trajectory: `full`, with tool calls and results, or the `final` answer.
            spec: rubric, method, reward and normalize, see `flex_judge.reward.types.RewardSpec`.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        if spec.get("group_size") is not None:
            raise UsageError("group_size: ART hands over whole groups; leave it out")
        self._scorer = ConversationScorer(judge, api_key=api_key, deadline_s=deadline_s, view=view, **spec)
        self._independent_weight = require_finite_float(independent_weight, "independent_weight")
        self._streak = UnscoredStreak()

    async def __call__(self, group: Any) -> Any:
        """Score a group.

        Args:
            group: an `art.TrajectoryGroup`; it is not changed.

        Returns:
            A new group with the scored trajectories, or None if no trajectory has a score; ART leaves None out.

        Raises:
            UsageError: the service rejects the settings.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
            UnscoredError: no trajectory of several consecutive groups has a score.
        """
        trajectories = list(group)
        rewards = await self._score_trajectories(trajectories)
        if problem := self._streak.check_rewards(rewards):
            logger.warning("a group is left out: %s", problem)
        pairs = list(zip(trajectories, rewards, strict=True))
        scored = [self._apply_reward(trajectory, r, r.value) for trajectory, r in pairs if r.value is not None]
        if not scored:
            return None
        failures = [
            UnscoredError(f"the judge gave no score: {r.status}: {r.detail}") for r in rewards if r.value is None
        ]
        metrics = {**group.metrics, "judge_unscored": len(failures)}
        # The class is taken from the group, so that this module does not import ART, which takes seconds.
        return type(group)(
            scored,
            exceptions=[*group.exceptions, *failures],
            metadata=dict(group.metadata),
            metrics=metrics,
            logs=list(group.logs),
        )

    async def _score_trajectories(self, trajectories: Sequence[Any]) -> list[Reward]:
        rows: list[dict[str, Any]] = []
        problems: dict[int, str] = {}
        for i, trajectory in enumerate(trajectories):
            try:
                rows.append(_build_row(trajectory))
            except ValueError as e:  # ART raises it for a trajectory that is not one chat conversation
                problems[i] = f"trajectories[{i}]: {e}"
        return ConvertedRows([], problems).insert_failures(await self._scorer.score_rows(rows))

    def _apply_reward(self, trajectory: Any, reward: Reward, value: float) -> Any:
        """Copy a trajectory with the judge's reward, its metrics, and a line of log with the reasoning."""
        metrics = dict(trajectory.metrics)
        metrics.setdefault("independent_reward", trajectory.reward)  # RULER keeps the original reward under this name
        metrics["judge_reward"] = value
        for name, number in (("judge_score", reward.score), ("judge_expected", reward.expected)):
            if number is not None:
                metrics[name] = number
        total = value + self._independent_weight * trajectory.reward
        logs = [*trajectory.logs, f"Flex-Judge: {reward.reasoning}"] if reward.reasoning else list(trajectory.logs)
        return trajectory.model_copy(update={"reward": total, "metrics": metrics, "logs": logs})


def _build_row(trajectory: Any) -> dict[str, Any]:
    """Split the conversation of a trajectory into the prompt and what the policy and its tools wrote after it.

    Raises:
        ValueError: the trajectory is not one chat conversation, or has no message of the policy.
    """
    if trajectory.additional_histories:
        raise ValueError("the trajectory has additional histories; only one conversation can be judged")
    history = trajectory.history().as_chat_completions_history()
    messages = list(history.messages)
    start = _find_response(messages, history.message_sources, trajectory.messages_and_choices)
    return {"prompt": messages[:start], "response": messages[start:], "columns": {"tools": history.tools}}


def _find_response(messages: Sequence[Any], sources: Sequence[Any], items: Sequence[Any]) -> int:
    """Return the index of the first message that the policy generated; a prompt may hold assistant messages too."""
    if any(source is not None for source in sources):
        generated = [source is not None and source.request_index is None for source in sources]
    else:
        generated = [not isinstance(item, Mapping) for item in items]  # a choice of the completion API, or a message
        if not any(generated):
            generated = [message.get("role") == ASSISTANT for message in messages]
    if True not in generated:
        raise ValueError("the trajectory has no message of the policy")
    return generated.index(True)
