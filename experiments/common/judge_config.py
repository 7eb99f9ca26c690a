"""Judge settings shared by commands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

from flex_judge.alignment.pipeline.judge_service import RemoteJudge, use_rubrics_of
from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.judges.engines import MODEL_ENGINES
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.embedded import EMBEDDED, JUDGE
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection, flatten_settings, flatten_values
from flex_judge.reward.serving.cluster import START_TIMEOUT_S

THINK_TOKENS, EMBEDDED_THINK_TOKENS = 4096, 128
"""Thinking budgets in tokens: the published one, and one for embedded models, which were not trained to reason long."""

MODEL, JUDGING, RESULTS = "judge model", "judging", "results"
"""Group headings in the help."""

NO_FLAGS = frozenset(
    {"threads", "own_process", "tensor_parallel", "ledger", "prefill", "max_think_tokens", "max_adapter_rank"}
    | {"allow_sleep"}
)
"""Judge settings without a flag: commands set them or leave them at their defaults."""

NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})
SERVICE_SETTINGS = ("judge_url", "judge_key")

DTYPES = ("bfloat16", "float16", "float32")

JUDGE_SECTION = SettingsSection(
    skip=NO_FLAGS, defaults={"model": JUDGE}, choices={"engine": ("auto", *MODEL_ENGINES), "dtype": ("auto", *DTYPES)}
)


def think_tokens_setting() -> Any:
    """Declare the setting `max_think_tokens`, whose default depends on the model."""
    return setting(
        None,
        "Thinking budget in tokens; longer reasoning is cut off and the answer is forced "
        f"(default: {THINK_TOKENS}; embedded model: {EMBEDDED_THINK_TOKENS})",
        metavar="N",
        group=JUDGING,
    )


def start_timeout_setting(group: str) -> Any:
    """Declare the setting `start_timeout_s` of commands that start a local Ray."""
    return setting(START_TIMEOUT_S, "Maximum time for a local Ray to start, in seconds", metavar="S", group=group)


def set_think_budget(settings: JudgeSettings, model: str, max_think_tokens: int | None) -> JudgeSettings:
    """Set the thinking budget of a judge.

    Args:
        settings: settings of the judge.
        model: name or id of its model.
        max_think_tokens: requested budget; None uses the model's default.
    """
    default = EMBEDDED_THINK_TOKENS if model.partition("@")[0] in EMBEDDED else THINK_TOKENS
    return replace(settings, max_think_tokens=default if max_think_tokens is None else max_think_tokens)


@settings_class(kw_only=True)
class ServiceFlags:
    """Settings of a judge service that is used instead of a judge in this run."""

    judge_url: str | None = setting(
        None,
        "URL of a judge service to use (flex-judge serve) instead of starting one",
        metavar="URL",
        group=MODEL,
    )
    judge_key: str | None = setting(
        None, "API key of the judge service: an environment variable or a file", metavar="env:NAME|FILE", group=MODEL
    )

    def check_service(
        self,
        defaults: Mapping[str, Any] = NO_DEFAULTS,
        *,
        names: Mapping[str, str] = NO_DEFAULTS,
        own: Collection[str] = (),
    ) -> None:
        """Check that no flag configures a judge that runs in a service already.

        Args:
            defaults: defaults of the command, where they differ from those of the settings.
            names: names of the judge's settings in this command, where they differ.
            own: settings that the command uses itself too.

        Raises:
            UsageError: there is such a flag, or a key without a URL.
        """
        use_rubrics_of(self.judge_url, self.judge_key)
        if self.judge_url is None:
            if self.judge_key is not None:
                raise UsageError("--judge-key goes with --judge-url; add the URL of the service")
            return
        values, declared = flatten_values(self), flatten_settings(type(self))
        # Reject a changed judge setting: the service would silently judge without it.
        for name, judge_setting in flatten_settings(JudgeFlags, SettingsSection(names=names)).items():
            if name in own or name in SERVICE_SETTINGS or name not in declared:
                continue
            if values[name] not in (declared[name].default, defaults.get(name, declared[name].default)):
                raise UsageError(
                    f"{format_flag(name)} is configured at the service with --judge-url; pass "
                    f"{format_flag(judge_setting.field.name)} to flex-judge serve"
                )

    def find_service(self, concurrency: int) -> RemoteJudge | None:
        """Return the judge service at `judge_url`; None if this run starts its own judge.

        Args:
            concurrency: maximum number of comparisons sent at the same time.
        """
        return None if self.judge_url is None else RemoteJudge(self.judge_url, concurrency, self.judge_key)


@settings_class(kw_only=True)
class JudgeFlags(ServiceFlags):
    """Settings of a judge: model, judging protocol and media limits."""

    judge: Annotated[JudgeConfig, JUDGE_SECTION]
    max_think_tokens: PositiveInt | None = think_tokens_setting()

    def build_settings(self, model: str) -> JudgeSettings:
        """Build the judging settings for a model name or id; a replay knows its model only after opening the ledger."""
        return set_think_budget(self.judge.settings, model, self.max_think_tokens)

    @property
    def engine_config(self) -> EngineConfig:
        """Engine of the judge."""
        return self.judge.engine

    @property
    def judge_config(self) -> JudgeConfig:
        """Engine and judging settings of the judge."""
        return JudgeConfig(self.engine_config, self.build_settings(self.judge.engine.model))
