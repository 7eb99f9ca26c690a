"""The settings of a judge, and those of `flex-judge judge`, as flags and YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flex_judge.experiments.common.flags import check_least, setting
from flex_judge.judges.engines import MODEL_ENGINES
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.models.embedded import EMBEDDED, JUDGE
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.protocol.voting import VOTE_CONFIDENCE, Order

THINK_TOKENS, EMBEDDED_THINK_TOKENS = 4096, 128
"""The published budget, and one that suits a model which was never taught to think at length."""


MODEL, _HOW, _MEDIA, _FILES = "the judge", "how it judges", "limits of media", "results"
"""Headings of the help."""


@dataclass(frozen=True)
class JudgeFlags:
    """Settings of a judge: its model, how it judges, and the limits of media."""

    model: str = setting(JUDGE, "the judge: name of an embedded model, folder or hub id", metavar="MODEL", group=MODEL)
    adapter: str | None = setting(None, "LoRA adapter on the judge: folder or hub id", metavar="MODEL", group=MODEL)
    engine: str = setting(
        "auto",
        "what runs the judge; auto is vllm where installed",
        choices=("auto", *MODEL_ENGINES),
        group=MODEL,
    )
    max_model_len: int = setting(8192, "prompt and reply together, in tokens", metavar="N", group=MODEL)
    max_batch: int = setting(64, "requests that are computed at the same time", metavar="N", group=MODEL)
    votes: int = setting(1, "rounds of voting at most; a round is one reply in each order", metavar="K", group=_HOW)
    vote_confidence: float = setting(
        VOTE_CONFIDENCE, "how sure voting is before it stops early; 1: certain", metavar="P", group=_HOW
    )
    order: Order = setting("as_given", "in which order the judge reads the responses", group=_HOW)
    num_waits: int = setting(0, "times that thinking which ends is made to go on with Wait", metavar="N", group=_HOW)
    reason_first: bool = setting(True, "think before answering", group=_HOW)
    forced_answer: bool = setting(True, "where no answer comes, have one written under a grammar", group=_HOW)
    temperature: float = setting(0.4, "of the judge's sampling; 0 is greedy", metavar="T", group=_HOW)
    top_p: float = setting(0.8, "of the judge's sampling", metavar="P", group=_HOW)
    max_think_tokens: int | None = setting(
        None,
        f"budget of the thinking (default: {THINK_TOKENS}; embedded model: {EMBEDDED_THINK_TOKENS})",
        metavar="N",
        group=_HOW,
    )
    max_answer_tokens: int = setting(64, "room for the answer", metavar="N", group=_HOW)
    deadline: float = setting(600.0, "seconds after which a judgment is given up", metavar="S", group=_HOW)
    seed: int = setting(0, "seed of sampling and of random orders", metavar="N", group=_HOW)
    image_max_pixels: int | None = setting(None, "scale larger images down", metavar="N", group=_MEDIA)
    video_fps: float | None = setting(None, "frames taken of a second of video", metavar="N", group=_MEDIA)
    video_max_pixels: int | None = setting(None, "scale larger frames down", metavar="N", group=_MEDIA)
    video_max_frames: int | None = setting(None, "frames taken of a video at most", metavar="N", group=_MEDIA)
    audio_max_seconds: float | None = setting(None, "refuse longer audio", metavar="S", group=_MEDIA)

    def __post_init__(self) -> None:
        least = {"seed": 0, "max_model_len": 1, "max_batch": 1, "image_max_pixels": 1, "video_max_pixels": 1}
        check_least(self, least)
        if self.video_fps is not None and not 0 < self.video_fps < math.inf:
            raise UsageError(f"--video-fps must be above 0, not {self.video_fps}")
        self.settings_for(self.model)  # what they refuse is to be known before anything is read or written

    def settings_for(self, model: str) -> JudgeSettings:
        """How the model of that name or id judges; a replay learns its model only from the ledger.

        Raises:
            UsageError: a setting out of its range, or two that do not go together.
        """
        budget = EMBEDDED_THINK_TOKENS if model.partition("@")[0] in EMBEDDED else THINK_TOKENS
        return JudgeSettings(
            max_think_tokens=budget if self.max_think_tokens is None else self.max_think_tokens,
            max_answer_tokens=self.max_answer_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            votes=self.votes,
            vote_confidence=self.vote_confidence,
            order=self.order,
            num_waits=self.num_waits,
            reason_first=self.reason_first,
            forced_answer=self.forced_answer,
            media=MediaLimits(
                image_max_pixels=self.image_max_pixels,
                video_fps=self.video_fps,
                video_max_pixels=self.video_max_pixels,
                video_max_frames=self.video_max_frames,
                audio_max_seconds=self.audio_max_seconds,
            ),
            seed=self.seed,
            deadline_s=self.deadline,
        )

    @property
    def engine_config(self) -> EngineConfig:
        """What runs the judge."""
        return EngineConfig(
            self.model,
            self.engine,
            adapter=self.adapter,
            max_model_len=self.max_model_len,
            max_batch=self.max_batch,
            seed=self.seed,
        )


@dataclass(frozen=True)
class JudgeRun(JudgeFlags):
    """Settings of a run of the judge over comparisons."""

    rubric: str = setting(
        "general", "rubric of comparisons that name none: a preset or a TOML file", metavar="NAME", group=_HOW
    )
    concurrency: int = setting(256, "comparisons under way at a time", metavar="N", group=MODEL)
    out: str | None = setting(
        None, "write judgments to this .jsonl or .parquet; those in it are not made again", metavar="FILE", group=_FILES
    )
    ledger: str | None = setting(
        None, "keep what the judge says in this file (default: beside --out)", metavar="FILE", group=_FILES
    )
    no_ledger: bool = setting(False, "keep nothing of what the judge says but judgments", group=_FILES)
    replay: str | None = setting(
        None, "take what the judge says from this ledger instead of running a model", metavar="LEDGER", group=_FILES
    )
    max_failures: int = setting(
        0, "comparisons that may stay without a score before the exit status is 1", metavar="N", group=_FILES
    )

    def __post_init__(self) -> None:
        check_least(self, {"max_failures": 0, "concurrency": 1})
        if self.replay and (self.ledger or self.no_ledger):
            raise UsageError("--replay reads a ledger and writes none; leave out --ledger and --no-ledger")
        if self.ledger and self.no_ledger:
            raise UsageError("--ledger and --no-ledger exclude each other")
        super().__post_init__()

    @property
    def engine_config(self) -> EngineConfig:
        """What runs the judge, and the ledger that it writes to or is replayed from."""
        if self.replay:
            return EngineConfig(self.replay, "replay", max_model_len=self.max_model_len)
        ledger = self.ledger or (f"{self.out}.ledger" if self.out and not self.no_ledger else None)
        return replace(super().engine_config, ledger=ledger)
