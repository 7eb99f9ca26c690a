"""Environment of skyrl_gym that records the conversation of a rollout, and judges it if it has a judge."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from flex_judge.judges.conversations.messages import ASSISTANT
from flex_judge.judges.errors import UnscoredError
from flex_judge.reward.integrations.scoring import ConversationScorer
from flex_judge.reward.turns import Granularity
from flex_judge.reward.types import Reward

RECORD_KEY = "flex_judge_record"
"""Key of a rollout's record in the extras of its environment."""
METRIC_PREFIX = "judge_"


@dataclass
class RolloutRecord:
    """Conversation of one rollout, which its environment writes and the generator reads."""

    prompt: list[Any] = field(default_factory=list)
    """Messages that the policy got first; empty before the environment was initialized."""
    response: list[dict[str, Any]] = field(default_factory=list)
    """Messages of the policy and of the environment after that."""
    failures: list[str] = field(default_factory=list)
    """Reasons why a turn or the rollout has no score."""


@dataclass(frozen=True)
class EnvSettings:
    """Settings of a judged environment."""

    env: str | None
    """Name of the wrapped environment; None for one answer to the prompt."""
    env_config: Any
    env_weight: float
    granularity: Granularity
    scorer: ConversationScorer | None
    """None only records."""


class JudgedEnvEntry:
    """Entry point of the registry of skyrl_gym: creates the environments and combines their metrics."""

    def __init__(self, settings: EnvSettings) -> None:
        self._settings = settings

    def __call__(self, env_config: Any = None, extras: dict[str, Any] | None = None, **options: Any) -> Any:
        """Create the environment of one rollout, as `skyrl_gym.make` does."""
        settings, inner = self._settings, None
        if settings.env is not None:
            config = env_config if settings.env_config is None else settings.env_config
            make = import_module("skyrl_gym").make
            inner = make(settings.env, env_config=config, extras={} if extras is None else extras, **options)
        return _get_env_class()(settings, inner, extras)

    def aggregate_metrics(self, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Combine the metrics of many rollouts: the judge's as means, the others as the wrapped environment does."""
        module = import_module("skyrl_gym.metrics")
        own = [{k: v for k, v in row.items() if k.startswith(METRIC_PREFIX)} for row in metrics]
        others = [{k: v for k, v in row.items() if not k.startswith(METRIC_PREFIX)} for row in metrics]
        combined: dict[str, Any] = module.default_aggregate_metrics(own)
        if self._settings.env is not None:
            combined = {**module.aggregate_for_environment(self._settings.env, others), **combined}
        return combined


@cache
def _get_env_class() -> type[Any]:
    """Build the environment class on first use, because it derives from a class of skyrl_gym."""
    base = import_module("skyrl_gym.envs.base_text_env").BaseTextEnv
    return type("JudgedEnv", (_JudgedEnv, base), {"__doc__": _JudgedEnv.__doc__})


class _JudgedEnv:
    """Environment that records the conversation, and judges it if it has a judge."""

    turns: int

    def __init__(self, settings: EnvSettings, inner: Any, extras: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._settings = settings
        self._inner = inner
        self._extras = extras or {}
        record = self._extras.get(RECORD_KEY)
        self._can_leave_out = record is not None
        self._record: RolloutRecord = record or RolloutRecord()
        self._values: list[float] = []
        self._is_judged = False

    def init(self, prompt: Any) -> tuple[Any, dict[str, Any]]:
        """Initialize the wrapped environment and record the prompt."""
        conversation, info = (prompt, {}) if self._inner is None else self._inner.init(prompt)
        # The trainer appends to the list that it gets back.
        self._record.prompt = list(copy.deepcopy(conversation))
        return conversation, info

    def step(self, action: str) -> dict[str, Any]:
        """Step the wrapped environment, record the messages, and judge the turn or the finished rollout."""
        self.turns += 1
        output: dict[str, Any] = {"observations": [], "reward": 0.0, "done": True, "metadata": {}}
        if self._inner is not None:
            output = dict(self._inner.step(action))
        self._record.response.append({"role": ASSISTANT, "content": output.get("postprocessed_action") or action})
        observations = copy.deepcopy(list(output["observations"]))
        scorer, granularity = self._settings.scorer, self._settings.granularity
        if scorer is None:
            self._record.response += observations
            return output
        if granularity != "turn":  # a turn is judged without what the environment answers
            self._record.response += observations
        row = {"prompt": self._record.prompt, "response": self._record.response, "columns": self._extras}
        reward = None
        if granularity != "response":
            reward = scorer.score_last_turn_sync(row, granularity)
        elif output["done"]:
            (reward,) = scorer.score_rows_sync([row])
        self._is_judged = self._is_judged or reward is not None
        if granularity == "turn":
            self._record.response += observations
        output["reward"] = self._settings.env_weight * output["reward"] + (self._get_value(reward) if reward else 0.0)
        return output

    def _get_value(self, reward: Reward) -> float:
        """Return the value of a reward; without one, 0 if the generator leaves this rollout out.

        Raises:
            UnscoredError: there is no value, and no `JudgeGenerator`.
        """
        if reward.value is not None:
            self._values.append(reward.value)
            return reward.value
        self._report_failure(f"{reward.status}: {reward.detail}")
        return 0.0

    def _report_failure(self, problem: str) -> None:
        if not self._can_leave_out:
            raise UnscoredError(
                f"a rollout has no score ({problem}), and SkyRL cannot leave it out; wrap the generator in a "
                "JudgeGenerator, which takes such rollouts out of the loss"
            )
        self._record.failures.append(problem)

    def close(self) -> None:
        """Close the wrapped environment.

        Raises:
            UnscoredError: the trainer ended the rollout before the environment did, and there is no `JudgeGenerator`.
        """
        if self._inner is not None:
            self._inner.close()
        if self._settings.scorer is not None and self._record.response and not self._is_judged:
            self._is_judged = True
            self._report_failure("overlong: the trainer ended it at its length limit, before the environment was done")

    def get_metrics(self) -> dict[str, Any]:
        """Return the metrics of the wrapped environment and the judge's."""
        metrics = {} if self._inner is None else dict(self._inner.get_metrics())
        if self._values:
            metrics[f"{METRIC_PREFIX}reward"] = sum(self._values) / len(self._values)
        if self._settings.scorer is not None:
            metrics[f"{METRIC_PREFIX}unscored"] = float(bool(self._record.failures))
        return metrics
