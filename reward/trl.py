"""The judge as a reward function of TRL's trainers: over HTTP, or within the trainer's own process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import ServiceTimeoutError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations import training
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter, prefix_row_error
from flex_judge.reward.types import Method, Normalization, Reward, RewardKind, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

NAME = "flex_judge"
MAX_UNSCORED_CALLS, MIN_UNSCORED_COMPLETIONS = 5, 20
"""So many calls in a row, of so many completions altogether, of which none has a score, end a run."""
logger = logging.getLogger(__name__)


class _BaseTrlReward:
    """What both forms of the reward function share."""

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
        api_key: str | None = None,
        deadline_s: float | None = None,
        unscored: str = "none",
        baseline_column: str | None = None,
        name: str = NAME,
        run: str | None = None,
        extra_rewards: training.ExtraRewards = (),
    ) -> None:
        """Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            rubric: name of a rubric.
            method: how completions are judged, see `flex_judge.reward.types.METHODS`.
            reward: what of the judgment counts, see `flex_judge.reward.types.REWARDS`.
            normalize: what is done to the rewards of a prompt's completions, see `flex_judge.reward.types.NORMALIZE`.
            group_size: completions of a prompt (the trainer's num_generations, which num_generations_eval must equal),
                where they are compared with each other and may lie on several ranks: the service waits for all of
                them. None: those of one call.
            group_timeout_s: how long it waits, in seconds, from the first of them on; then it judges what is there.
            api_key: the service's key; None takes the environment's FLEX_JUDGE_API_KEY.
            deadline_s: seconds for one call to the service (default 600). Keep it below the trainer's own limits:
                ddp_timeout (1800 by default), AsyncGRPOTrainer's heartbeat_stale_after_s (300 by default).
            unscored: what a completion without a score gets: `none`, which GRPOTrainer, RLOOTrainer and
                AsyncGRPOTrainer leave out if this is their only reward function; or `raise`. OnlineDPOTrainer counts
                None as 0, so there it must be `raise`.
            baseline_column: the column with the answers that completions are held against, for method `baseline`.
            name: name of the reward in TRL's logs; must be unique per trainer.
            run: id that keeps the groups of runs apart that share a service and a data set. None: one that the ranks
                of this run agree on.
            extra_rewards: other reward functions and their weights. Give them here instead of to the trainer: with
                several reward functions, TRL counts an unscored completion as 0.

        Raises:
            UsageError: a setting that does not exist or does not go with another.
        """
        self.spec = RewardSpec(rubric, method, reward, normalize, group_size, group_timeout_s)
        self._judge = resolve_judge(judge, api_key, deadline_s)
        if unscored not in ("none", "raise"):
            raise UsageError(f"unscored must be 'none' or 'raise', not {unscored!r}")
        if (method == "baseline") != (baseline_column is not None):
            raise UsageError("method 'baseline' needs baseline_column, the column with the answers; others take none")
        self.__name__ = name  # TRL logs a reward under its function's name
        self._prefix = "judge" if name == NAME else name
        self._unscored = unscored
        self._baseline_column = baseline_column
        self._run = run
        self._extra_rewards = training.check_extra_rewards(extra_rewards)
        self._warned: set[str] = set()
        self._model = ""
        self._unseen = (0, 0)  # calls in a row without any score, and their completions

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._judge, JudgeClient):
            raise UsageError(
                "a JudgeReward with a judge in this process cannot go to another one; serve the judge (flex-judge "
                "serve) and give its URL"
            )
        return self.__dict__

    def _build_samples(
        self, prompts: Sequence[Any], completions: Sequence[Any], rest: Mapping[str, Any]
    ) -> list[Sample]:
        """The rows of one call, which share prompts or not, in any order."""
        rows, group = RowConverter(), self._name_group(rest)
        images, baselines = self._get_images(rest, len(prompts)), self._get_baselines(rest, len(prompts))
        samples = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                samples.append(rows.build_sample(prompt, completion, images[i], baselines[i], group))
            except UsageError as e:
                raise prefix_row_error(e, "prompts", i) from e
        return samples

    def _name_group(self, rest: Mapping[str, Any]) -> str | None:
        """Name of this step's groups: completions of one prompt in two steps must not meet. It is the same on all
        ranks. AsyncGRPOTrainer tells no step, but has whole groups in each call.
        """
        step = getattr(rest.get("trainer_state"), "global_step", None)
        if self.spec.group_size is None:
            if self.spec.needs_group and step is not None and "log_metric" in rest and training.count_ranks() > 1:
                raise UsageError(
                    "group_size is missing: completions are compared with each other, and "
                    f"{training.count_ranks()} ranks train, each of which may have but some of a prompt's; set it to "
                    "the trainer's num_generations"
                )
            return None
        if step is None:
            return self._run or None
        return f"{training.get_run_id() if self._run is None else self._run} step {step}".strip()

    def _get_images(self, rest: Mapping[str, Any], count: int) -> list[Sequence[Any]]:
        """The pictures beside each prompt: column `images` (a list a row) or `image` (one a row); None for none."""
        if rest.get("images") is not None:
            return [row if isinstance(row, list | tuple) else [] if row is None else [row] for row in rest["images"]]
        if rest.get("image") is not None:
            return [[] if row is None else [row] for row in rest["image"]]
        return [()] * count

    def _get_baselines(self, rest: Mapping[str, Any], count: int) -> Sequence[Any]:
        column = self._baseline_column
        if column is None:
            return [None] * count
        if column not in rest:
            known = ", ".join(repr(name) for name, values in rest.items() if isinstance(values, list))
            raise UsageError(f"baseline_column: the data set has no column {column!r}; it has {known or 'no others'}")
        missing = next((i for i, baseline in enumerate(rest[column]) if baseline is None), None)
        if missing is not None:
            raise UsageError(f"{column}[{missing}]: there is no answer to hold the completion against")
        baselines: Sequence[Any] = rest[column]
        return baselines

    def _handle_timeout(self, samples: Sequence[Sample], error: ServiceTimeoutError) -> list[Reward]:
        """Rewards of a call that got nothing. Another one in a row would be an error."""
        if self._unscored == "raise":
            raise error
        logger.warning(
            "%s; its %d completions have no reward, and if the next call fails too, the run ends", error, len(samples)
        )
        return [Reward(None, Status.TIMEOUT, detail=str(error)) for _ in samples]

    def _finish_call(self, rewards: Sequence[Reward], rest: Mapping[str, Any], started: float) -> list[float | None]:
        """Values for the trainer, after its logs have got the figures."""
        if (log_metric := rest.get("log_metric")) is not None:
            for name, value in training.compute_judge_metrics(rewards, time.monotonic() - started).items():
                log_metric(f"{self._prefix}/{name}", value)
        if (log_extra := rest.get("log_extra")) is not None:
            for name, values in training.build_completion_columns(rewards).items():
                log_extra(f"{self._prefix}_{name}", values)
        self._warn_of_incomplete_groups(rewards)
        self._check_any_scored(rewards)
        self._check_same_model(rewards)
        lost = [r for r in rewards if r.value is None]
        if lost and self._unscored == "none" and rest.get("trainer_state") is not None and log_metric is None:
            self._warn_once(
                "zero",
                "%d of %d completions have no score, and a trainer that gives reward functions no log_metric, such as "
                "OnlineDPOTrainer, counts them as 0; with unscored='raise' the run ends instead",
                *(len(lost), len(rewards)),
            )
        if lost and self._unscored == "raise":
            raise UnscoredError(
                f"{len(lost)} of {len(rewards)} completions have no score ({_count_statuses(lost)}); the first: "
                f"{lost[0].detail or lost[0].status}; with unscored='raise' that ends the run, since OnlineDPOTrainer, "
                "for one, cannot leave a completion out"
            )
        return [r.value for r in rewards]

    def _add_extra_rewards(
        self, judged: list[float | None], others: Sequence[Sequence[float | None]], rest: Mapping[str, Any]
    ) -> list[float | None]:
        """The judge's rewards with those of the functions beside it, whose means are logged."""
        total = training.add_rewards(judged, self._extra_rewards, others)
        if (log_metric := rest.get("log_metric")) is not None:
            for (function, _), given in zip(self._extra_rewards, others, strict=True):
                if known := [value for value in given if value is not None]:
                    log_metric(
                        f"{self._prefix}/extra_reward_{training.get_function_name(function)}", sum(known) / len(known)
                    )
        return total

    def _check_any_scored(self, rewards: Sequence[Reward]) -> None:
        """Warn of a call in which nothing is scored, and end a run in which that goes on: it would learn nothing."""
        if not rewards or any(r.value is not None for r in rewards):
            self._unseen = (0, 0)
            return
        calls, completions = self._unseen = (self._unseen[0] + 1, self._unseen[1] + len(rewards))
        why = next((r.detail for r in rewards if r.detail), None) or rewards[0].status
        told = f"no score for any of {len(rewards)} completions ({_count_statuses(rewards)}): {why}"
        if calls >= MAX_UNSCORED_CALLS and completions >= MIN_UNSCORED_COMPLETIONS:
            raise UnscoredError(f"the judge has scored nothing in {calls} calls in a row; in the last, {told}")
        self._warn_once("blind", "%s. If that goes on, the run ends", told)

    def _check_same_model(self, rewards: Sequence[Reward]) -> None:
        """End a run whose judge has become another one: its rewards would mean something else from here on."""
        for model in sorted({r.model for r in rewards if r.model}):
            self._model = self._model or model
            if model != self._model:
                raise UsageError(
                    f"the judge is {model} now, and was {self._model}: another model gives other rewards; serve the "
                    "one that the run began with"
                )

    def _warn_of_incomplete_groups(self, rewards: Sequence[Reward]) -> None:
        parts = sum(not r.group.is_complete or r.group.late for r in rewards)
        if parts:
            self._warn_once(
                "parts",
                "%d of %d completions were judged without all %s of their group, or came too late for it: group_size "
                "is not the trainer's num_generations (in an evaluation num_generations_eval), or some rank takes "
                "longer than group_timeout_s=%g seconds. Further ones are only counted, in %s/whole",
                *(parts, len(rewards), self.spec.group_size, self.spec.group_timeout_s, self._prefix),
            )

    def _warn_once(self, what: str, text: str, *values: Any) -> None:
        """Once for each thing."""
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(text, *values)


class JudgeReward(_BaseTrlReward):
    """A reward function for GRPOTrainer, RLOOTrainer, AsyncGRPOTrainer and OnlineDPOTrainer.

    A completion that could not be scored gets None, never a number. If the service brings nothing for a whole call,
    all of that call are None; if the next call finds it no better, ServiceUnavailableError ends the run.

    In TRL's logs, as `judge/...` and `judge_...`: see `flex_judge.reward.integrations.training`.

    Example:
        >>> reward = JudgeReward("http://10.0.0.1:8000", rubric="correctness")
        >>> trainer = GRPOTrainer(model=..., reward_funcs=reward, train_dataset=...)
    """

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **rest: Any) -> list[float | None]:
        """Judge completions, all of them at once.

        Args:
            prompts: strings or lists of messages, as many as completions. Equal prompts are one group, wherever they
                stand.
            completions: strings or lists of messages.
            rest: columns of the data set, of which `images`, `image` and the baseline's are used, and what TRL adds.

        Raises:
            UsageError: a row that cannot be judged, a service that refuses it, or another judge than before.
            ServiceUnavailableError: the service judges nothing, call after call.
            UnscoredError: with unscored="raise", a completion has no score; or the judge scored none of the completions
                of several calls in a row.
        """
        started = time.monotonic()
        samples = self._build_samples(prompts, completions, rest)
        try:
            rewards = self._judge.rewards_sync(samples, self.spec)
        except ServiceTimeoutError as e:
            rewards = self._handle_timeout(samples, e)
        judged = self._finish_call(rewards, rest, started)
        others = [
            training.call_reward(function, prompts=prompts, completions=completions, **rest)
            for function, _ in self._extra_rewards
        ]
        return self._add_extra_rewards(judged, others, rest)


class AsyncJudgeReward(_BaseTrlReward):
    """JudgeReward for trainers that await reward functions (all but OnlineDPOTrainer), run concurrently."""

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **rest: Any) -> list[float | None]:
        """See `JudgeReward.__call__`."""
        started = time.monotonic()
        samples = await asyncio.to_thread(self._build_samples, prompts, completions, rest)  # encodes images
        asked = [
            training.acall_reward(function, prompts=prompts, completions=completions, **rest)
            for function, _ in self._extra_rewards
        ]
        try:
            rewards, others = await asyncio.gather(self._judge.rewards(samples, self.spec), asyncio.gather(*asked))
        except ServiceTimeoutError as e:
            rewards, others = self._handle_timeout(samples, e), [[None] * len(samples) for _ in self._extra_rewards]
        return self._add_extra_rewards(self._finish_call(rewards, rest, started), others, rest)


def _count_statuses(rewards: Sequence[Reward]) -> str:
    return ", ".join(f"{status}: {count}" for status, count in Counter(r.status for r in rewards).items())
