"""The judge as a reward function of TRL's trainers: over HTTP, or in the trainer's own process.

`flex_judge.reward.trl.judge_reward` is a reward function with settings from environment variables, for TRL's command
line: `trl grpo --reward_funcs flex_judge.reward.trl.judge_reward`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Unpack

from flex_judge.judges.errors import UsageError
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations import training
from flex_judge.reward.integrations.batch import RewardBatch
from flex_judge.reward.integrations.environment import load_reward_environment
from flex_judge.reward.integrations.scorer import BatchScorer
from flex_judge.reward.settings import RewardFields, RewardSettings, build_reward_settings

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

    judge_reward: JudgeReward
    """Reward function with settings from environment variables, see `load_reward_environment`."""

__all__ = ["AsyncJudgeReward", "JudgeReward", "RewardSettings"]
Columns = Mapping[str, Any]
"""Data set columns of a call, and the arguments that TRL adds."""


class _BaseTrlReward:
    """Settings and extra rewards of both reward functions."""

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        settings: RewardSettings | None = None,
        *,
        extra_rewards: training.ExtraRewards = (),
        **fields: Unpack[RewardFields],
    ) -> None:
        """Configure the reward function.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            settings: how completions are judged; None uses the defaults.
            extra_rewards: other reward functions and their weights. Pass them here and not to the trainer: with several
                reward functions, TRL counts an unscored completion as 0.
            fields: fields of `RewardSettings`, which replace those of `settings`.

        Raises:
            UsageError: a setting is unknown, has an invalid value, or conflicts with another one.
        """
        self.settings = build_reward_settings(settings, fields)
        self.__name__ = self.settings.name  # TRL logs a reward under its function's name
        self._scorer = BatchScorer(judge, self.settings)
        self._extra_rewards = training.check_extra_rewards(extra_rewards)

    def _add_extra_rewards(
        self, judged: list[float | None], extra_values: Sequence[Sequence[float | None]], columns: Columns
    ) -> list[float | None]:
        """Add the extra rewards to the judge's rewards, and log their means."""
        totals = training.add_rewards(judged, self._extra_rewards, extra_values)
        if (log_metric := columns.get("log_metric")) is not None:
            for (function, _), values in zip(self._extra_rewards, extra_values, strict=True):
                if (mean := training.compute_mean(values)) is not None:
                    log_metric(f"{self._scorer.prefix}/extra_reward_{training.get_function_name(function)}", mean)
        return totals


class JudgeReward(_BaseTrlReward):
    """Reward function for GRPOTrainer, RLOOTrainer, AsyncGRPOTrainer and OnlineDPOTrainer.

    A completion without a score gets None, never a number. If the service does not respond to a whole call, all its
    completions get None; if the next call fails too, ServiceUnavailableError ends the run.

    TRL's logs show the judge's metrics as `judge/...` and its columns as `judge_...`, see
    `flex_judge.reward.integrations.training`.

    Example:
        >>> reward = JudgeReward("http://10.0.0.1:8000", rubric="correctness")
        >>> trainer = GRPOTrainer(model=..., reward_funcs=reward, train_dataset=...)
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        settings: RewardSettings | None = None,
        *,
        extra_rewards: training.ExtraRewards = (),
        sleep_between: Literal[1, 2] | None = None,
        **fields: Unpack[RewardFields],
    ) -> None:
        """Configure the reward function.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            settings: how completions are judged; None uses the defaults.
            extra_rewards: other reward functions and their weights. Pass them here and not to the trainer: with several
                reward functions, TRL counts an unscored completion as 0.
            sleep_between: level at which the judge sleeps between the calls, so that the trainer can use its GPU
                memory: 1 keeps the weights in the machine's memory, 2 discards them. The judge must allow sleep
                (`flex-judge serve --allow-sleep`). Not for AsyncGRPOTrainer, which trains while it judges.
            fields: fields of `RewardSettings`, which replace those of `settings`.

        Raises:
            UsageError: a setting is unknown, has an invalid value, or conflicts with another one.
        """
        if sleep_between not in (None, 1, 2):
            raise UsageError(f"sleep_between must be 1, 2 or None, not {sleep_between!r}")
        super().__init__(judge, settings, extra_rewards=extra_rewards, **fields)
        self._sleep_between = sleep_between

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Judge all completions of one call.

        Args:
            prompts: strings or lists of messages, one per completion. Equal prompts form a group, wherever they are.
            completions: strings or lists of messages.
            columns: data set columns and TRL's own arguments. Used are the media columns (`images`, `image`, `videos`,
                ...), `tools`, the baseline column, `completion_ids`, `trainer_state`, `log_metric` and `log_extra`;
                extra reward functions get all of them.

        Returns:
            One reward per completion; None without a score.

        Raises:
            UsageError: the service rejects the settings, or the judge model changed. A row that cannot be judged gets
                None and the status `invalid_input`.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
            UnscoredError: a completion has no score and unscored is "raise"; or no completion of several consecutive
                calls has a score.
        """
        with self._keep_awake(columns):
            judged = self._scorer.score(_build_batch(prompts, completions, columns))
        extra_values = [
            training.call_reward(function, prompts=prompts, completions=completions, **columns)
            for function, _ in self._extra_rewards
        ]
        return self._add_extra_rewards(judged, extra_values, columns)

    @contextmanager
    def _keep_awake(self, columns: Columns) -> Iterator[None]:
        """Keep the judge awake until all ranks have scored; with `sleep_between`, it sleeps before and after.

        An error of the block leaves it awake.
        """
        level, judge = self._sleep_between, self._scorer.judge
        if level is None:
            yield
            return
        if "trainer_state" not in columns:
            raise UsageError(
                "sleep_between: this trainer passes no trainer_state, so it trains while it judges (AsyncGRPOTrainer); "
                "leave sleep_between out"
            )
        judge.wake_sync()
        yield
        # The judge sleeps only after the slowest rank has its rewards; the others wait for it with their own training,
        # because TRL gathers the rewards of all ranks next.
        training.wait_for_ranks()
        if training.is_first_rank() or not isinstance(judge, JudgeClient):
            judge.sleep_sync(level)


class AsyncJudgeReward(_BaseTrlReward):
    """JudgeReward for trainers that await reward functions (all but OnlineDPOTrainer) and run them concurrently."""

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Judge all completions of one call, see `JudgeReward.__call__`."""
        extra_calls = [
            training.acall_reward(function, prompts=prompts, completions=completions, **columns)
            for function, _ in self._extra_rewards
        ]
        scoring = self._scorer.ascore(_build_batch(prompts, completions, columns))
        judged, extra_values = await asyncio.gather(scoring, asyncio.gather(*extra_calls))
        return self._add_extra_rewards(judged, extra_values, columns)


def _build_batch(prompts: Sequence[Any], completions: Sequence[Any], columns: Columns) -> RewardBatch:
    """Build the batch of a call. AsyncGRPOTrainer passes no step, but each of its calls holds whole groups."""
    state, log_metric, token_ids = (columns.get(name) for name in ("trainer_state", "log_metric", "completion_ids"))
    step = getattr(state, "global_step", None)
    return RewardBatch(
        prompts=prompts,
        completions=completions,
        columns=columns,
        step=step,
        may_be_split=step is not None and log_metric is not None,
        # Trainers that leave out None (GRPO, RLOO) pass log_metric; OnlineDPOTrainer counts None as 0 and passes none.
        counts_none_as_zero=state is not None and log_metric is None,
        token_counts=None if token_ids is None else [len(ids) for ids in token_ids],
        log_metric=log_metric,
        log_column=columns.get("log_extra"),
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Create `judge_reward` on first access, so that a wrong variable is reported before a model is loaded."""
        if name != "judge_reward":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        environment = load_reward_environment(os.environ)
        extra_rewards, sleep_between = environment.extra_rewards, environment.sleep_between
        reward = JudgeReward(
            environment.url, environment.settings, extra_rewards=extra_rewards, sleep_between=sleep_between
        )
        globals()[name] = reward
        return reward
