"""The judge as a reward function of TRL's trainers: over HTTP, or in the trainer's own process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import ServiceTimeoutError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations import training
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import ConvertedRows, RowConverter, list_rows
from flex_judge.reward.types import Method, Normalization, Reward, RewardKind, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

NAME = "flex_judge"
Columns = Mapping[str, Any]
"""Data set columns of a call, and the arguments that TRL adds."""
logger = logging.getLogger(__name__)


class _BaseTrlReward:
    """Settings, row conversion, logging and checks of both reward functions."""

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        rubric: str = "general",
        method: Method = "pointwise",
        reward: RewardKind = "expected",
        normalize: Normalization = "none",
        group_size: int | None = None,
        group_timeout_s: float = 60.0,
        *,
        view: View = "full",
        api_key: str | None = None,
        deadline_s: float | None = None,
        unscored: str = "none",
        baseline_column: str | None = None,
        name: str = NAME,
        run: str | None = None,
        extra_rewards: training.ExtraRewards = (),
    ) -> None:
        """Configure the reward function.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            rubric: name of a rubric.
            method: how completions are compared, see `flex_judge.reward.types.METHODS`.
            reward: statistic that becomes the reward, see `flex_judge.reward.types.REWARDS`.
            normalize: normalization within a prompt's group, see `flex_judge.reward.types.NORMALIZATIONS`.
            group_size: number of completions of a prompt (the trainer's num_generations, and num_generations_eval must
                be the same). Set it if completions are compared with each other and a prompt's completions may be on
                several ranks: the service then waits for all of them. None groups the completions of one call.
            group_timeout_s: seconds that the service waits, from the first completion of a group, before it judges
                an incomplete group.
            view: what the judge sees of a completion with several messages: `full`, with tool calls and their results,
                or the `final` answer.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of one call to the service in seconds (default 600). Keep it below the trainer's own
                limits: ddp_timeout (default 1800), AsyncGRPOTrainer's heartbeat_stale_after_s (default 300).
            unscored: result for completions without a score. `none` returns None, which GRPOTrainer, RLOOTrainer and
                AsyncGRPOTrainer leave out if this is their only reward function. `raise` ends the run; it is required
                for OnlineDPOTrainer, which counts None as 0.
            baseline_column: data set column with the answers that the method `baseline` compares with.
            name: name of the reward in TRL's logs; must be unique per trainer.
            run: id that separates the groups of runs that share a service and a data set. None uses an id that the
                ranks of this run agree on.
            extra_rewards: other reward functions and their weights. Pass them here and not to the trainer: with several
                reward functions, TRL counts an unscored completion as 0.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        self.spec = RewardSpec(rubric, method, reward, normalize, group_size, group_timeout_s)
        self._judge = resolve_judge(judge, api_key, deadline_s)
        self._view: View = view
        RowConverter(view)  # checks the view
        if unscored not in ("none", "raise"):
            raise UsageError(f"unscored must be 'none' or 'raise', not {unscored!r}")
        if (method == "baseline") != (baseline_column is not None):
            raise UsageError("baseline_column: must name a column of answers if method is 'baseline', else be None")
        self.__name__ = name  # TRL logs a reward under its function's name
        self._prefix = "judge" if name == NAME else name
        self._unscored = unscored
        self._baseline_column = baseline_column
        self._run = run
        self._extra_rewards = training.check_extra_rewards(extra_rewards)
        self._warned: set[str] = set()
        self._model = ""
        self._streak = training.UnscoredStreak()

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._judge, JudgeClient):
            raise UsageError(
                "a JudgeReward with a judge in this process cannot be sent to another process; serve the judge "
                "(flex-judge serve) and give its URL"
            )
        return self.__dict__

    def _convert_rows(self, prompts: Sequence[Any], completions: Sequence[Any], columns: Columns) -> ConvertedRows:
        """Build the samples of one call; prompts may repeat in any order."""
        group = self._name_group(columns)
        rows, baselines = list_rows(columns, len(prompts)), self._get_baselines(columns, len(prompts))
        arguments = [
            {
                "prompt": prompt,
                "response": completion,
                "columns": row,
                "baseline": baseline,
                "group": group,
                "baseline_column": self._baseline_column,
            }
            for prompt, completion, row, baseline in zip(prompts, completions, rows, baselines, strict=True)
        ]
        converted = RowConverter(self._view).convert_rows(arguments)
        for problem in converted.problems.values():
            self._warn_once("invalid", "a completion cannot be judged and gets no reward: %s", problem)
        return converted

    def _name_group(self, columns: Columns) -> str | None:
        """Name the groups of this training step, equally on all ranks.

        The name keeps completions of one prompt in two steps apart. AsyncGRPOTrainer passes no step, but each of its
        calls holds whole groups.
        """
        step = getattr(columns.get("trainer_state"), "global_step", None)
        if self.spec.group_size is None:
            may_be_split = self.spec.needs_group and step is not None and "log_metric" in columns
            if may_be_split and (num_ranks := training.count_ranks()) > 1:
                raise UsageError(
                    f"group_size is missing: completions are compared with each other, and {num_ranks} ranks train, "
                    "which may share a prompt's completions; set it to the trainer's num_generations"
                )
            return None
        if step is None:
            return self._run or None
        return f"{training.get_run_id() if self._run is None else self._run} step {step}".strip()

    def _get_baselines(self, columns: Columns, count: int) -> Sequence[Any]:
        name = self._baseline_column
        if name is None:
            return [None] * count
        if name not in columns:
            names = ", ".join(repr(column) for column, values in columns.items() if isinstance(values, list))
            raise UsageError(f"baseline_column: the data set has no column {name!r}; it has {names or 'no others'}")
        return list(columns[name])

    def _handle_timeout(self, samples: Sequence[Sample], error: ServiceTimeoutError) -> list[Reward]:
        """Build the rewards of a call without any response. The client raises a different error for the next one."""
        if self._unscored == "raise":
            raise error
        text = "%s; the %d completions of this call get no reward; the run ends if the next call fails too"
        logger.warning(text, error, len(samples))
        return [Reward(None, Status.TIMEOUT, detail=str(error)) for _ in samples]

    def _finish_call(self, rewards: Sequence[Reward], columns: Columns, started: float) -> list[float | None]:
        """Log and check the rewards of a call, and return their values."""
        if (log_metric := columns.get("log_metric")) is not None:
            for name, value in training.compute_judge_metrics(rewards, time.monotonic() - started).items():
                log_metric(f"{self._prefix}/{name}", value)
        if (log_extra := columns.get("log_extra")) is not None:
            for name, values in training.build_completion_columns(rewards).items():
                log_extra(f"{self._prefix}_{name}", values)
        self._warn_of_incomplete_groups(rewards)
        if problem := self._streak.check_rewards(rewards):
            self._warn_once("blind", "%s. If this continues, the run ends", problem)
        self._check_same_model(rewards)
        failed = [r for r in rewards if r.value is None]
        if failed and self._unscored == "raise":
            statuses, reason = training.count_statuses(failed), failed[0].detail or failed[0].status
            raise UnscoredError(
                f"{len(failed)} of {len(rewards)} completions have no score ({statuses}); the first: {reason}; the run "
                "ends because of unscored='raise' (OnlineDPOTrainer cannot leave out a completion)"
            )
        # Trainers that leave out None (GRPO, RLOO) pass log_metric; OnlineDPOTrainer counts None as 0 and passes none.
        if failed and columns.get("trainer_state") is not None and log_metric is None:
            self._warn_once(
                "zero",
                "%d of %d completions have no score, and trainers that pass no log_metric to reward functions, such as "
                "OnlineDPOTrainer, count them as 0; set unscored='raise' to end the run instead",
                *(len(failed), len(rewards)),
            )
        return [r.value for r in rewards]

    def _add_extra_rewards(
        self, judged: list[float | None], extra_values: Sequence[Sequence[float | None]], columns: Columns
    ) -> list[float | None]:
        """Add the extra rewards to the judge's rewards, and log their means."""
        totals = training.add_rewards(judged, self._extra_rewards, extra_values)
        if (log_metric := columns.get("log_metric")) is not None:
            for (function, _), values in zip(self._extra_rewards, extra_values, strict=True):
                if (mean := training.compute_mean(values)) is not None:
                    log_metric(f"{self._prefix}/extra_reward_{training.get_function_name(function)}", mean)
        return totals

    def _check_same_model(self, rewards: Sequence[Reward]) -> None:
        """Raise UsageError if the judge model changed: rewards of two models are not comparable."""
        for model in sorted({r.model for r in rewards if r.model}):
            self._model = self._model or model
            if model != self._model:
                raise UsageError(
                    f"the judge model changed from {self._model} to {model}, whose rewards are not comparable; serve "
                    f"{self._model} again"
                )

    def _warn_of_incomplete_groups(self, rewards: Sequence[Reward]) -> None:
        incomplete = sum(not r.group.is_whole for r in rewards)
        if incomplete:
            self._warn_once(
                "incomplete",
                "%d of %d completions were judged in a group with fewer than %s members, or arrived too late for it; "
                "set group_size to the trainer's num_generations (and num_generations_eval), or raise group_timeout_s="
                "%g seconds if a rank is slower. Further cases are only counted, in %s/whole",
                *(incomplete, len(rewards), self.spec.group_size, self.spec.group_timeout_s, self._prefix),
            )

    def _warn_once(self, topic: str, text: str, *values: Any) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(text, *values)


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

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Judge all completions of one call.

        Args:
            prompts: strings or lists of messages, one per completion. Equal prompts form a group, wherever they are.
            completions: strings or lists of messages.
            columns: data set columns and TRL's own arguments. Used are the media columns (`images`, `image`, `videos`,
                ...), `tools`, the baseline column, `trainer_state`, `log_metric` and `log_extra`; extra reward
                functions get all of them.

        Returns:
            One reward per completion; None without a score.

        Raises:
            UsageError: the service rejects the settings, or the judge model changed. A row that cannot be judged gets
                None and the status `invalid_input`.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
            UnscoredError: a completion has no score and unscored is "raise"; or no completion of several consecutive
                calls has a score.
        """
        started = time.monotonic()
        converted = self._convert_rows(prompts, completions, columns)
        try:
            rewards = self._judge.rewards_sync(converted.samples, self.spec)
        except ServiceTimeoutError as e:
            rewards = self._handle_timeout(converted.samples, e)
        judged = self._finish_call(converted.insert_failures(rewards), columns, started)
        extra_values = [
            training.call_reward(function, prompts=prompts, completions=completions, **columns)
            for function, _ in self._extra_rewards
        ]
        return self._add_extra_rewards(judged, extra_values, columns)


class AsyncJudgeReward(_BaseTrlReward):
    """JudgeReward for trainers that await reward functions (all but OnlineDPOTrainer) and run them concurrently."""

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Judge all completions of one call, see `JudgeReward.__call__`."""
        started = time.monotonic()
        # In a thread, because encoding images would block the trainer's event loop.
        converted = await asyncio.to_thread(self._convert_rows, prompts, completions, columns)
        extra_calls = [
            training.acall_reward(function, prompts=prompts, completions=completions, **columns)
            for function, _ in self._extra_rewards
        ]
        try:
            rewards_call = self._judge.rewards(converted.samples, self.spec)
            rewards, extra_values = await asyncio.gather(rewards_call, asyncio.gather(*extra_calls))
        except ServiceTimeoutError as e:
            rewards, extra_values = (
                self._handle_timeout(converted.samples, e),
                [[None] * len(prompts)] * len(extra_calls),
            )
        judged = self._finish_call(converted.insert_failures(rewards), columns, started)
        return self._add_extra_rewards(judged, extra_values, columns)
