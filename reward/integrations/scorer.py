"""Score the completions of one call of a trainer: conversion, judge, checks, warnings and logs in one place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import ServiceTimeoutError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations import training
from flex_judge.reward.integrations.batch import PreparedBatch, RewardBatch
from flex_judge.reward.integrations.lengths import compute_length_penalty, count_words, has_results, regress_on_length
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter, list_rows
from flex_judge.reward.settings import DEFAULT_NAME, RewardSettings
from flex_judge.reward.turns import combine_rewards
from flex_judge.reward.types import Reward, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

logger = logging.getLogger(__name__)


class BatchScorer:
    """Scorer of the completions that a trainer passes, call by call. Can be pickled if the judge is a service."""

    def __init__(self, judge: FlexJudge | JudgeClient | str, settings: RewardSettings) -> None:
        """Configure the scorer.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            settings: how completions are judged.

        Raises:
            UsageError: the judge has another type, or a setting of the connection has no URL.
        """
        self.settings = settings
        self.prefix = "judge" if settings.name == DEFAULT_NAME else settings.name
        self.judge = resolve_judge(judge, settings.api_key, settings.deadline_s)
        self._spec = settings.spec
        self._warned: set[str] = set()
        self._model = ""
        self._model_changes = 0
        self._streak = training.UnscoredStreak()

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self.judge, JudgeClient):
            raise UsageError(
                "a JudgeReward with a judge in this process cannot be sent to another process; serve the judge "
                "(flex-judge serve) and give its URL"
            )
        return self.__dict__

    def score(self, batch: RewardBatch) -> list[float | None]:
        """Judge the completions of a batch, log and check the result.

        Returns:
            One reward per completion; None without a score.

        Raises:
            UsageError: the service rejects the settings, or the judge model changed. A row that cannot be judged gets
                None and the status `invalid_input`.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
            UnscoredError: a completion has no score and unscored is "raise"; or no completion of several consecutive
                calls has a score.
        """
        prepared = self._prepare(batch)
        try:
            rewards = self.judge.rewards_sync(prepared.samples, self._spec)
        except ServiceTimeoutError as e:
            rewards = self._handle_timeout(prepared, e)
        return self._finish(prepared, rewards)

    async def ascore(self, batch: RewardBatch) -> list[float | None]:
        """Judge the completions of a batch from an event loop, see `score`."""
        # In a thread, because encoding images would block the trainer's event loop.
        prepared = await asyncio.to_thread(self._prepare, batch)
        try:
            rewards = await self.judge.rewards(prepared.samples, self._spec)
        except ServiceTimeoutError as e:
            rewards = self._handle_timeout(prepared, e)
        return self._finish(prepared, rewards)

    def _prepare(self, batch: RewardBatch) -> PreparedBatch:
        """Build the samples of a batch; prompts may repeat in any order."""
        column = self.settings.baseline_column
        shared = {"group": self._name_group(batch), "baseline_column": column}
        rows, baselines = list_rows(batch.columns, len(batch.prompts)), self._get_baselines(batch)
        values = zip(batch.prompts, batch.completions, rows, baselines, strict=True)
        arguments = [
            {"prompt": prompt, "response": completion, "columns": row, "baseline": baseline, **shared}
            for prompt, completion, row, baseline in values
        ]
        converted = RowConverter(self.settings.view).convert_rows(arguments)
        for problem in converted.problems.values():
            self._warn_once("invalid", "a completion cannot be judged and gets no reward: %s", problem)
        return PreparedBatch(batch, converted, self.settings)

    def _name_group(self, batch: RewardBatch) -> str | None:
        """Name the groups of this training step, equally on all ranks.

        The name keeps completions of one prompt in two steps apart.
        """
        run = self.settings.run
        if self._spec.group_size is None:
            if self._spec.needs_group and batch.may_be_split and (num_ranks := training.count_ranks()) > 1:
                raise UsageError(
                    f"group_size is missing: completions are compared with each other, and {num_ranks} ranks train, "
                    "which may share a prompt's completions; set it to the trainer's num_generations"
                )
            return None
        if batch.step is None:
            return run or None
        return f"{training.get_run_id() if run is None else run} step {batch.step}".strip()

    def _get_baselines(self, batch: RewardBatch) -> Sequence[Any]:
        name, columns = self.settings.baseline_column, batch.columns
        if name is None:
            return [None] * len(batch.prompts)
        if name not in columns:
            names = ", ".join(repr(column) for column, values in columns.items() if isinstance(values, list))
            raise UsageError(f"baseline_column: the data set has no column {name!r}; it has {names or 'no others'}")
        return list(columns[name])

    def _handle_timeout(self, prepared: PreparedBatch, error: ServiceTimeoutError) -> list[Reward]:
        """Build the rewards of a call without any response. The client raises a different error for the next one."""
        if self.settings.unscored == "raise":
            raise error
        text = "%s; the %d completions of this call get no reward; the run ends if the next call fails too"
        logger.warning(text, error, len(prepared.converted.samples))
        return [Reward(None, Status.TIMEOUT, detail=str(error)) for _ in prepared.samples]

    def _finish(self, prepared: PreparedBatch, judged: Sequence[Reward]) -> list[float | None]:
        """Log and check the rewards of a call, and return their values."""
        settings, batch = self.settings, prepared.batch
        turns = prepared.regroup_rewards(judged)
        rewards = [combine_rewards(rewards, settings.combination, settings.discount) for rewards in turns]
        models = sorted({turn.model for turn in judged if turn.model})
        self._note_models(models)
        metrics = training.compute_judge_metrics(rewards, time.monotonic() - prepared.started)
        values, length_metrics = self._apply_lengths(prepared, rewards)
        metrics |= length_metrics
        columns = training.build_completion_columns(rewards)
        if settings.granularity != "response":
            metrics["turns"] = sum(map(len, prepared.turns)) / max(1, len(prepared.turns))
            columns["turn_rewards"] = [[turn.value for turn in row] for row in turns]
        if settings.on_model_change != "raise":
            metrics |= {"models": len(models), "model_changes": self._model_changes}
        if batch.log_metric is not None:
            for name, value in metrics.items():
                batch.log_metric(f"{self.prefix}/{name}", value)
        if batch.log_column is not None:
            for name, column in columns.items():
                batch.log_column(f"{self.prefix}_{name}", column)
        self._check_rewards(rewards, batch)
        return values

    def _apply_lengths(
        self, prepared: PreparedBatch, rewards: Sequence[Reward]
    ) -> tuple[list[float | None], dict[str, float]]:
        """Subtract the length penalty from the rewards, and compute the metrics of lengths."""
        settings, rows = self.settings, prepared.list_rows()
        lengths = self._measure_lengths(prepared.batch, rows)
        values = [reward.value for reward in rewards]
        metrics: dict[str, float] = {}
        if prepared.batch.log_metric is not None:  # else nobody sees them, and the digests of large media take time
            prompts = ["" if row is None else row.to_comparison("").prompt_digest for row in rows]
            if (mean := training.compute_mean(lengths)) is not None:
                metrics["length_mean"] = mean
            if (regression := regress_on_length(values, lengths, prompts)) is not None:
                metrics["length_slope"] = regression.slope
                if regression.correlation is not None:
                    metrics["length_correlation"] = regression.correlation
        if settings.length_limit is not None:
            penalties = [0.0 if length is None else compute_length_penalty(length, settings) for length in lengths]
            metrics["length_penalty"] = training.compute_mean(penalties) or 0.0
            values = [
                None if value is None else value - penalty for value, penalty in zip(values, penalties, strict=True)
            ]
        return values, metrics

    def _measure_lengths(self, batch: RewardBatch, rows: Sequence[Sample | None]) -> list[float | None]:
        """Measure the completions in the unit of the settings; None for a row that cannot be read."""
        if self.settings.length_unit == "word":
            return [None if row is None or row.problem else float(count_words(row.response)) for row in rows]
        if batch.token_counts is None:
            raise UsageError("length_unit 'token': the trainer passes no token counts; use length_unit 'word'")
        if any(row is not None and has_results(row.response) for row in rows):
            self._warn_once(
                "tokens",
                "length_unit 'token' counts the tokens of tool results too, which the policy did not write; use "
                "length_unit 'word'",
            )
        return [float(count) for count in batch.token_counts]

    def _note_models(self, models: Sequence[str]) -> None:
        """Note the models that judged, and react if they are not the model of the calls before.

        Raises:
            UsageError: another model judged, and on_model_change is "raise".
        """
        for model in models:
            previous, self._model = self._model, model
            if previous in ("", model):
                continue
            if self.settings.on_model_change == "raise":
                self._model = previous
                raise UsageError(
                    f"the judge model changed from {previous} to {model}, whose rewards are not comparable; serve "
                    f"{previous} again, or set on_model_change to 'warn' or 'allow'"
                )
            self._model_changes += 1
            level = logging.WARNING if self.settings.on_model_change == "warn" else logging.INFO
            logger.log(level, "the judge model changed from %s to %s (change %d)", previous, model, self._model_changes)

    def _check_rewards(self, rewards: Sequence[Reward], batch: RewardBatch) -> None:
        """Warn about incomplete groups and unscored completions, and end a run that cannot learn."""
        settings, spec = self.settings, self._spec
        if incomplete := sum(not reward.group.is_whole for reward in rewards):
            self._warn_once(
                "incomplete",
                "%d of %d completions were judged in a group with fewer than %s members, or arrived too late for it; "
                "set group_size to the trainer's num_generations (and num_generations_eval), or raise group_timeout_s="
                "%g seconds if a rank is slower. Further cases are only counted, in %s/whole",
                *(incomplete, len(rewards), spec.group_size, spec.group_timeout_s, self.prefix),
            )
        if problem := self._streak.check_rewards(rewards):
            self._warn_once("blind", "%s. If this continues, the run ends", problem)
        failed = [reward for reward in rewards if reward.value is None]
        if failed and settings.unscored == "raise":
            statuses, reason = training.count_statuses(failed), failed[0].detail or failed[0].status
            raise UnscoredError(
                f"{len(failed)} of {len(rewards)} completions have no score ({statuses}); the first: {reason}; the run "
                "ends because of unscored='raise' (OnlineDPOTrainer cannot leave out a completion)"
            )
        if failed and batch.counts_none_as_zero:
            self._warn_once(
                "zero",
                "%d of %d completions have no score, and trainers that pass no log_metric to reward functions, such as "
                "OnlineDPOTrainer, count them as 0; set unscored='raise' to end the run instead",
                *(len(failed), len(rewards)),
            )

    def _warn_once(self, topic: str, text: str, *values: Any) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(text, *values)
