"""Settings of a judge that commands share."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import MODEL_ENGINES
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.models.embedded import EMBEDDED, JUDGE
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection

THINK_TOKENS, EMBEDDED_THINK_TOKENS = 4096, 128
"""The published budget, and one that suits a model which was never taught to think at length."""


MODEL, JUDGING, RESULTS = "judge model", "judging", "results"
"""Headings of the help."""


NO_FLAGS = frozenset(
    {"dtype", "threads", "kv_cache_gib", "gpu_memory_utilization", "own_process", "tensor_parallel", "stall_s"}
    | {"ledger", "prefill", "max_think_tokens"}
)
"""Settings of a judge that commands decide, or that are left at their defaults."""


JUDGE_SECTION = SettingsSection(skip=NO_FLAGS, defaults={"model": JUDGE}, choices={"engine": ("auto", *MODEL_ENGINES)})


def think_tokens_setting() -> Any:
    """Declare the field `max_think_tokens` of a command, whose default depends on the model."""
    return setting(
        None,
        "Thinking budget in tokens; longer reasoning is cut off and the answer is forced "
        f"(default: {THINK_TOKENS}; embedded model: {EMBEDDED_THINK_TOKENS})",
        metavar="N",
        group=JUDGING,
    )


def set_think_budget(settings: JudgeSettings, model: str, max_think_tokens: int | None) -> JudgeSettings:
    """Settings with the thinking budget that was asked for, else the one that suits a model's name or id."""
    usual = EMBEDDED_THINK_TOKENS if model.partition("@")[0] in EMBEDDED else THINK_TOKENS
    return replace(settings, max_think_tokens=usual if max_think_tokens is None else max_think_tokens)


@settings_class(kw_only=True)
class JudgeFlags:
    """Settings of a judge: its model, how it judges, and the limits of media."""

    judge: Annotated[JudgeConfig, JUDGE_SECTION]
    max_think_tokens: PositiveInt | None = think_tokens_setting()

    def build_settings(self, model: str) -> JudgeSettings:
        """How the model of that name or id judges; a replay learns its model only from the ledger."""
        return set_think_budget(self.judge.settings, model, self.max_think_tokens)

    @property
    def engine_config(self) -> EngineConfig:
        """What runs the judge."""
        return self.judge.engine

    @property
    def judge_config(self) -> JudgeConfig:
        """The judge."""
        return JudgeConfig(self.engine_config, self.build_settings(self.judge.engine.model))
