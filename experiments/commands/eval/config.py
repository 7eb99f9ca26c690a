"""The settings of `flex-judge eval`, as flags and YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.judge_config import JudgeFlags
from flex_judge.judges.engines import resolve_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import check_model, identify_model
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class
from flex_judge.judges.validation.flat import flatten_settings, flatten_values
from flex_judge.reward.serving.cluster import check_address

LEDGER = "judge.ledger"
REPLAY_SETTINGS = ("data", "task", "limit", "replay", "out", "max_failures", "order", "seed")
"""Settings that mean something where no model runs."""
_DATA, _RUN, _RESULTS = "benchmark", "placement", "results"
"""Headings of the help."""


@settings_class(kw_only=True)
class EvalRun(JudgeFlags):
    """Settings of a run of a benchmark."""

    data: tuple[str, ...] = setting(
        (),
        "Data: a file or folder of the original release, or hub:OWNER/NAME[:CONFIG][@SPLIT]; may be repeated",
        metavar="PATH",
        group=_DATA,
    )
    task: tuple[str, ...] = setting(
        (),
        "Part of the benchmark to run; may be repeated (default: all parts in the data)",
        metavar="NAME",
        group=_DATA,
    )
    limit: PositiveInt | None = setting(
        None, "Number of items per task, evenly spread over the data (default: all)", metavar="N", group=_DATA
    )
    runs: PositiveInt = setting(1, "Number of independent judgments per item", metavar="K", group=_DATA)
    replay: str | None = setting(
        None,
        'Read stored replies instead of running a model: JSON lines {"id", "text"} or {"id", "texts": [...]}, or as '
        "published with PandaLM, LLMBar and JudgeBench",
        metavar="FILE",
        group=_DATA,
    )
    replicas: PositiveInt = setting(1, "Number of judge replicas on Ray", metavar="N", group=_RUN)
    address: str | None = setting(
        None,
        "Join the Ray cluster at this host:port, or auto, instead of starting one",
        metavar="HOST:PORT",
        group=_RUN,
    )
    concurrency: PositiveInt = setting(
        256, "Maximum number of comparisons in progress at a time", metavar="N", group=_RUN
    )
    out: str | None = setting(
        None,
        "Output folder; a run that is there is resumed, with more --runs or a higher --limit too (default: "
        "runs/eval-NAME; with --replay nothing is written unless a folder is given)",
        metavar="DIR",
        group=_RESULTS,
    )
    max_failures: NonNegativeInt = setting(
        0,
        "Number of items without a judgment (no reply, unreadable image, timeout) above which the exit status is 1; "
        "a reply without a verdict counts as judged",
        metavar="N",
        group=_RESULTS,
    )

    @property
    def needs_ray(self) -> bool:
        """Whether judges are replicas on a Ray cluster, rather than one in this process."""
        return self.replicas > 1 or self.address is not None

    def build_engine_config(self, out: str) -> EngineConfig:
        """What runs the judge, which keeps what it says beside the results."""
        return replace(self.engine_config, ledger=f"{out}/{LEDGER}")

    def build_judge_config(self, out: str) -> JudgeConfig:
        return JudgeConfig(self.build_engine_config(out), self.judge_config.settings)

    def check_replay(self, protocol: Mapping[str, Any]) -> None:
        """Raise UsageError if a setting is given that acts on no stored reply.

        Args:
            protocol: the benchmark's own settings.
        """
        values = flatten_values(self)
        for name, known in flatten_settings(type(self)).items():
            defaults = (known.default, protocol.get(name, known.default))
            if name not in REPLAY_SETTINGS and values[name] not in defaults:
                raise UsageError(f"--replay runs no model; leave out {format_flag(name)}")

    def check_models(self) -> None:
        """Look at what can be looked at before anything is started.

        Raises:
            UsageError: the judge cannot be had, or nothing answers at the cluster's address.
        """
        if self.address:
            check_address(self.address)
        if resolve_engine(self.judge.engine.engine) != "scripted":
            check_model(self.judge.engine.model, self.judge.engine.adapter)

    def build_identity(self, benchmark: str, digest: str, replies: str | None) -> dict[str, Any]:
        """What determines the results; a run folder holds one such.

        Args:
            digest: of the data.
            replies: digest of stored replies.
        """
        told: dict[str, Any] = {
            "benchmark": benchmark,
            "data_digest": digest,
            "order": self.judge.settings.order,
            "seed": self.judge.settings.seed,
        }
        if self.replay:
            return {**told, "tasks": list(self.task), "limit": self.limit, "replay_digest": replies}
        engine = self.judge.engine
        return {  # of more items or more runs, what is judged already is a part
            **told,
            "judge": identify_model(engine.model),
            "adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge_config.settings),
            "max_model_len": engine.max_model_len,
        }
