"""The judge for SkyRL: an environment that records or judges its rollouts, and a generator that judges whole groups.

    register_judge_env("judged_search", env="search")
    generator = JudgeGenerator(generator, "http://10.0.0.1:8000", method="round_robin", reward="win_rate")

`register_judge_env` wraps a registered environment. With a judge, the environment scores every turn or the finished
rollout by itself. Without one it records the conversation, and `JudgeGenerator` judges the rollouts of each prompt
together. SkyRL cannot leave out a rollout, so `JudgeGenerator` takes those without a score out of the loss.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.floats import require_finite_float
from flex_judge.reward.integrations.scoring import ConversationScorer
from flex_judge.reward.integrations.skyrl_env import (
    RECORD_KEY,
    EnvSettings,
    JudgedEnvEntry,
    RolloutRecord,
)
from flex_judge.reward.integrations.training import UnscoredStreak, compute_judge_metrics, compute_mean
from flex_judge.reward.turns import Granularity, check_turn_spec
from flex_judge.reward.types import Reward, RewardSpec

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.reward.client.client import JudgeClient

__all__ = ["JudgeGenerator", "register_judge_env"]

logger = logging.getLogger(__name__)


def register_judge_env(
    name: str,
    judge: FlexJudge | JudgeClient | str | None = None,
    *,
    env: str | None = None,
    env_config: Any = None,
    env_weight: float = 0.0,
    granularity: Granularity = "response",
    api_key: str | None = None,
    deadline_s: float | None = None,
    view: View = "full",
    **spec: Any,
) -> None:
    """Register an environment that records its conversation, and judges it if a judge is given.

    Call it in the process that creates the generator, before the trainer starts.

    Args:
        name: name of the new environment, for `environment.env_class` or the column `env_class` of the data set.
        judge: the URL of a judge service, a client of one, or a judge in this process. None only records, for
            `JudgeGenerator`.
        env: name of the environment that it wraps. None makes one of a single turn without a reward of its own.
        env_config: configuration of the wrapped environment, such as `cfg.environment.skyrl_gym.text2sql`.
        env_weight: weight of the wrapped environment's own reward, which is added to the judge's. It has no meaning
            without a judge: set it on the `JudgeGenerator`.
        granularity: `response` gives the judge's reward to the last step of a finished rollout. `turn` gives every
            step its own: the judge scores the message, with the conversation before it as the prompt. `step` also
            shows it tool results of the environment that follow the message.
        api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
        deadline_s: time limit of a call in seconds (default 600).
        view: what the judge sees of a rollout: `full`, or the `final` answer.
        spec: rubric and reward, see `flex_judge.reward.types.RewardSpec`. An environment sees one rollout, so settings
            that compare rollouts are errors; `JudgeGenerator` takes them.

    Raises:
        UsageError: a setting has an invalid value or conflicts with another one.
    """
    check_turn_spec(RewardSpec(**spec), granularity)
    scorer = None
    if judge is not None:
        scorer = ConversationScorer(judge, api_key=api_key, deadline_s=deadline_s, view=view, **spec)
        if scorer.spec.needs_group:
            raise UsageError("an environment sees one rollout and cannot compare it with others; use JudgeGenerator")
    elif spec or env_weight or granularity != "response":
        raise UsageError("without a judge the environment only records; give these settings to JudgeGenerator")
    weight = require_finite_float(env_weight, "env_weight")
    entry = JudgedEnvEntry(EnvSettings(env, env_config, weight, granularity, scorer))
    import_module("skyrl_gym").register(id=name, entry_point=entry)


class JudgeGenerator:
    """Generator that judges the rollouts of another generator, all those of a prompt together.

    Example:
        >>> class Experiment(BasePPOExp):
        ...     def get_generator(self, *args):
        ...         return JudgeGenerator(super().get_generator(*args), "http://10.0.0.1:8000", rubric="correctness")
    """

    def __init__(
        self,
        generator: Any,
        judge: FlexJudge | JudgeClient | str | None = None,
        *,
        env_weight: float = 0.0,
        api_key: str | None = None,
        deadline_s: float | None = None,
        view: View = "full",
        **spec: Any,
    ) -> None:
        """Configure the generator.

        Args:
            generator: the generator of the rollouts, such as SkyRL's `SkyRLGymGenerator`. Its environments must be
                registered with `register_judge_env`.
            judge: the URL of a judge service, a client of one, or a judge in this process. None keeps the rewards of
                environments that judge by themselves, and only leaves out rollouts without a score.
            env_weight: weight of the environment's own rewards, which are added to the judge's.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            view: what the judge sees of a rollout: `full`, or the `final` answer.
            spec: rubric, method, reward and normalize, see `flex_judge.reward.types.RewardSpec`.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        if spec.get("group_size") is not None:
            raise UsageError("group_size: SkyRL hands over whole groups; leave it out")
        self._scorer = None
        if judge is not None:
            self._scorer = ConversationScorer(judge, api_key=api_key, deadline_s=deadline_s, view=view, **spec)
            if getattr(getattr(generator, "generator_cfg", None), "zero_reward_on_non_stop", False):
                raise UsageError(
                    "generator.zero_reward_on_non_stop sets rewards to 0 before the judge's are added; set it to false"
                )
        elif spec or env_weight:
            raise UsageError("without a judge, the environments give the rewards; give these settings to them")
        self._generator = generator
        self._env_weight = require_finite_float(env_weight, "env_weight")
        self._streak = UnscoredStreak()

    async def generate(self, input_batch: Mapping[str, Any], disable_tqdm: bool = False) -> Any:
        """Generate rollouts and set their rewards.

        A rollout without a score gets a loss mask of zeros and the mean reward of the scored rollouts of its prompt,
        which leaves the group's mean as it is; if there are none, the mean of the batch.

        Raises:
            UsageError: an environment does not record its conversation, or the service rejects the settings.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
            UnscoredError: no rollout of several consecutive calls has a score.
        """
        count = len(input_batch["prompts"])
        records = [RolloutRecord() for _ in range(count)]
        extras = [
            {**(row or {}), RECORD_KEY: record}
            for row, record in zip(input_batch["env_extras"] or [None] * count, records, strict=True)
        ]
        accepts_tqdm = "disable_tqdm" in inspect.signature(self._generator.generate).parameters
        options = {"disable_tqdm": disable_tqdm} if accepts_tqdm else {}
        output = await self._generator.generate({**input_batch, "env_extras": extras}, **options)
        for record, env_class in zip(records, input_batch["env_classes"], strict=True):
            if not record.prompt:
                raise UsageError(
                    f"env_class {env_class!r} does not record its conversation; register an environment that wraps it "
                    "with register_judge_env, and set env_class to its name"
                )
        prompt_ids = _list_prompt_ids(input_batch, count)
        values = await self._score_records(records, extras, prompt_ids, output)
        _write_rewards(output, values, prompt_ids, 1.0 if self._scorer is None else self._env_weight)
        return output

    async def _score_records(
        self, records: Sequence[RolloutRecord], extras: Sequence[Any], prompt_ids: Sequence[str], output: Any
    ) -> list[float | None]:
        """Return what is added to the reward of each rollout; None without a score."""
        if self._scorer is None:
            return [None if record.failures else 0.0 for record in records]
        started = time.monotonic()
        rows = [
            {"prompt": record.prompt, "response": record.response, "columns": columns, "group": prompt_id or None}
            for record, columns, prompt_id in zip(records, extras, prompt_ids, strict=True)
        ]
        rewards: list[Reward] = await self._scorer.score_rows(rows)
        if problem := self._streak.check_rewards(rewards):
            logger.warning("%s. If this continues, the run ends", problem)
        metrics = output.get("rollout_metrics")
        if metrics is not None:
            for name, value in compute_judge_metrics(rewards, time.monotonic() - started).items():
                # SkyRL averages metrics over batches only if "mean" or "avg" is in their names; others it adds up.
                metrics[f"judge/{name}" if "mean" in name else f"judge/{name}_mean"] = value
        return [reward.value for reward in rewards]


def _list_prompt_ids(input_batch: Mapping[str, Any], count: int) -> list[str]:
    """List an id for each rollout that the rollouts of the same prompt share."""
    ids = input_batch.get("trajectory_ids")
    return [""] * count if ids is None else [str(trajectory_id.instance_id) for trajectory_id in ids]


def _write_rewards(output: Any, values: Sequence[float | None], prompt_ids: Sequence[str], env_weight: float) -> None:
    """Write the rewards into the output of a generator, and take rollouts without a score out of the loss."""
    rewards, masks = output["rewards"], output["loss_masks"]
    steps = _list_steps(output, len(values))
    totals: list[float | None] = []
    for indices, value in zip(steps, values, strict=True):
        for i in indices:
            rewards[i] = (
                [env_weight * r for r in rewards[i]] if isinstance(rewards[i], list) else env_weight * rewards[i]
            )
        # With several rows, SkyRL uses the reward of the last one only.
        totals.append(None if value is None else value + _sum_reward(rewards[indices[-1]]))
    by_prompt: dict[str, list[float | None]] = defaultdict(list)
    for prompt_id, total in zip(prompt_ids, totals, strict=True):
        by_prompt[prompt_id].append(total)
    for indices, value, prompt_id in zip(steps, values, prompt_ids, strict=True):
        added = value
        if added is None:
            mean = compute_mean(by_prompt[prompt_id])
            added = (compute_mean(totals) or 0.0) if mean is None else mean
            for i in indices:
                masks[i] = [0] * len(masks[i])
                rewards[i] = [0.0] * len(rewards[i]) if isinstance(rewards[i], list) else 0.0
        last = indices[-1]
        if isinstance(rewards[last], list):
            rewards[last][-1] += added
        else:
            rewards[last] += added


def _sum_reward(reward: Any) -> float:
    return float(sum(reward)) if isinstance(reward, list) else float(reward)


def _list_steps(output: Any, count: int) -> list[list[int]]:
    """List the rows of each rollout: one, or one per step if SkyRL trains on steps (`step_wise_trajectories`)."""
    ends = output.get("is_last_step") or [True] * len(output["response_ids"])
    steps: list[list[int]] = [[]]
    for i, is_last in enumerate(ends):
        steps[-1].append(i)
        if is_last:
            steps.append([])
    if len(steps) != count + 1 or steps[-1]:
        raise UsageError(f"the generator returned {len(steps) - 1} rollouts for {count} prompts; expected one for each")
    return steps[:-1]
