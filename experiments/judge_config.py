"""The settings of `flex-judge judge`, as flags and YAML."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.configs import setting
from judges import EngineConfig, JudgeSettings
from judges.engines import MODEL_ENGINES
from judges.errors import UsageError
from judges.models import EMBEDDED
from judges.profiles import MediaLimits
from judges.voting import ORDERS, VOTE_CONFIDENCE

THINK_TOKENS, EMBEDDED_THINK_TOKENS = 4096, 128
"""The published budget, and one that suits a model which was never taught to think at length."""


@dataclass(frozen=True)
class JudgeRun:
    """Settings of a run of the judge."""

    model: str = setting("smollm2-135m", "the judge: embedded name, folder or hub id", metavar="MODEL")
    adapter: str | None = setting(None, "LoRA adapter on the judge: folder or hub id", metavar="MODEL")
    engine: str = setting(
        "auto",
        "what runs the judge; auto is vllm where installed",
        choices=("auto", *MODEL_ENGINES),
    )
    rubric: str = setting("general", "rubric of comparisons that name none: a preset or a TOML file", metavar="NAME")
    out: str | None = setting(None, "write judgments to this .jsonl or .parquet; what is there is kept", metavar="FILE")
    votes: int = setting(1, "replies per comparison at most", metavar="K")
    vote_confidence: float = setting(
        VOTE_CONFIDENCE, "how sure voting is before it stops early; 1: certain", metavar="P"
    )
    order: str = setting("as_given", "in which order the judge reads the responses", choices=ORDERS)
    waits: int = setting(0, "times the end of the thinking is put off with Wait", metavar="N")
    reason_first: bool = setting(True, "think before answering")
    force: bool = setting(True, "ask for an answer that does not come under a grammar")
    temperature: float = setting(0.4, "of the judge's sampling; 0 is greedy", metavar="T")
    top_p: float = setting(0.8, "of the judge's sampling", metavar="P")
    max_think_tokens: int | None = setting(
        None, f"budget of the thinking (default: {THINK_TOKENS}; embedded model: {EMBEDDED_THINK_TOKENS})", metavar="N"
    )
    max_answer_tokens: int = setting(64, "room for the answer", metavar="N")
    max_model_len: int = setting(8192, "prompt and reply together, in tokens", metavar="N")
    deadline: float = setting(600.0, "seconds after which a judgment is given up", metavar="S")
    image_max_pixels: int | None = setting(None, "scale larger images down", metavar="N")
    video_fps: float | None = setting(None, "frames taken of a second of video", metavar="N")
    video_max_pixels: int | None = setting(None, "scale larger frames down", metavar="N")
    seed: int = setting(0, "seed of sampling and of random orders", metavar="N")
    ledger: str | None = setting(None, "keep generations in this file (default: beside --out)", metavar="FILE")
    no_ledger: bool = setting(False, "keep no generations")
    replay: str | None = setting(None, "read replies from this ledger instead of running a model", metavar="LEDGER")
    max_failures: int = setting(0, "comparisons that may stay without a score before the exit status is 1", metavar="N")
    concurrency: int = setting(256, "comparisons under way at a time", metavar="N")

    def __post_init__(self) -> None:
        for name, least in (("max_failures", 0), ("concurrency", 1), ("seed", 0), ("max_model_len", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        if self.replay and (self.ledger or self.no_ledger):
            raise UsageError("--replay reads a ledger and writes none; leave out --ledger and --no-ledger")
        if self.ledger and self.no_ledger:
            raise UsageError("--ledger and --no-ledger exclude each other")

    @property
    def settings(self) -> JudgeSettings:
        budget = EMBEDDED_THINK_TOKENS if self.model in EMBEDDED and not self.replay else THINK_TOKENS
        return JudgeSettings(
            max_think_tokens=self.max_think_tokens or budget,
            max_answer_tokens=self.max_answer_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            votes=self.votes,
            vote_confidence=self.vote_confidence,
            order=self.order,
            waits=self.waits,
            reason_first=self.reason_first,
            force=self.force,
            media=MediaLimits(self.image_max_pixels, self.video_fps, self.video_max_pixels),
            seed=self.seed,
            deadline_s=self.deadline,
        )

    @property
    def engine_config(self) -> EngineConfig:
        if self.replay:
            return EngineConfig(self.replay, "replay", max_model_len=self.max_model_len)
        ledger = self.ledger or (f"{self.out}.ledger" if self.out and not self.no_ledger else None)
        return EngineConfig(
            self.model,
            self.engine,
            adapter=self.adapter,
            max_model_len=self.max_model_len,
            seed=self.seed,
            ledger=ledger,
        )
