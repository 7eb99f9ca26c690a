"""Settings of the judge: thinking, answering and voting, as plain data that is validated on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.protocol.voting import VOTE_CONFIDENCE, Order
from flex_judge.judges.validation.classes import (
    Confidence,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings_class,
)
from flex_judge.judges.validation.flat import SettingsSection


@settings_class
class JudgeSettings:
    """How a judge thinks, answers and votes. The defaults are the published protocol for scores (arXiv 2505.18601)."""

    max_think_tokens: PositiveInt = 4096
    """Thinking budget in tokens; longer reasoning is cut off and the answer is forced."""
    max_answer_tokens: PositiveInt = 64
    """Maximum answer length in tokens; each response beyond two adds 16."""
    temperature: NonNegativeFloat = 0.4
    """Sampling temperature of the judge; 0 is greedy."""
    top_p: Fraction = 0.8
    """Nucleus sampling of the judge: probability mass to sample from."""
    votes: PositiveInt = 1
    """Maximum number of voting rounds; a round is one reply per order. Scores are averaged over all rounds; preferences
    go by majority and stop early."""
    vote_confidence: Confidence = VOTE_CONFIDENCE
    """Probability that a preference stands at which its voting stops early; 1 means certain."""
    order: Order = "as_given"
    """Reading order of the responses. random: shuffled for each vote; both: each vote in the given order and in
    reverse; rotations: each vote in every cyclic order."""
    num_waits: NonNegativeInt = 0
    """Budget forcing: append 'Wait' N times instead of ending the reasoning (arXiv 2501.19393)."""
    reason_first: bool = True
    """Reason before answering; the reverse is the paper's ablation and less accurate."""
    forced_answer: bool = True
    """Constrained-decode an answer if the model gives none; otherwise such a reply has no score."""
    prefill: str | None = None
    """Text that the reply starts with; None uses the prefill that the model family was trained on."""
    media: Annotated[MediaLimits, SettingsSection("media limits")] = field(default_factory=MediaLimits)
    """Media limits; each None uses the limit of the model family."""
    seed: NonNegativeInt = 0
    """Sampling seed. Changing it invalidates cached judgments."""
    deadline_s: PositiveFloat | None = 600.0
    """Time limit of a judgment in seconds, counted from when the engine has room for it; votes that come later are
    dropped, and a judgment without votes has status timeout."""

    def __post_init__(self) -> None:
        if self.votes > 1 and self.temperature == 0 and self.order != "random":
            raise UsageError("votes above 1 need a temperature above 0, or order random: greedy votes are identical")
        if self.num_waits and not self.reason_first:
            raise UsageError("num_waits needs reason_first: budget forcing extends the reasoning before the answer")

    def compute_answer_budget(self, responses: int) -> int:
        """Return the maximum number of answer tokens for a verdict on the given number of responses."""
        return self.max_answer_tokens + 16 * max(0, responses - 2)


@dataclass(frozen=True)
class JudgeConfig:
    """Complete configuration of a judge. It is plain data, so a replica can be built from it in another process."""

    engine: Annotated[EngineConfig, SettingsSection("judge model")]
    settings: Annotated[JudgeSettings, SettingsSection("judging")] = field(default_factory=JudgeSettings)
