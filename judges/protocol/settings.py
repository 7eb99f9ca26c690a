"""How a judge thinks, answers and votes: settings as plain data, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.protocol.voting import ORDERS, VOTE_CONFIDENCE


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge thinks and answers. The defaults are the published protocol's for scores."""

    max_think_tokens: int = 4096
    """Thinking longer than this is cut off and the answer forced."""
    max_answer_tokens: int = 64
    """Room for what follows the thinking; 16 more for each response beyond two."""
    temperature: float = 0.4
    top_p: float = 0.8
    votes: int = 1
    """Rounds of voting at most; a round is one reply in each of the `order`s. For scores all are held, and the mean
    counts; for preferences the majority does, and voting ends early."""
    vote_confidence: float = VOTE_CONFIDENCE
    """Voting on a preference ends when the remaining votes leave the outcome as it is with at least this probability;
    at 1.0 only when they can't change it."""
    order: str = "as_given"
    """In which order the judge reads the responses. `as_given`; `random`: drawn anew for each vote; `both`: each vote
    in the given order and in reverse; `rotations`: each vote in every cyclic order."""
    num_waits: int = 0
    """How many times the end of the thinking is put off with "Wait" (budget forcing, arXiv 2501.19393)."""
    reason_first: bool = True
    """Whether the judge thinks before it answers. The other way round is the paper's ablation, and worse."""
    forced_answer: bool = True
    """Whether an answer that does not come is asked for under a grammar. Without it such a reply has no score."""
    prefill: str | None = None
    """What the reply is made to begin with; None takes what the model family was trained on."""
    media: MediaLimits = field(default_factory=MediaLimits)
    """How media are scaled, where that is to differ from the model family's own limits."""
    seed: int = 0
    """Decides the random orders. With a ledger, another seed also asks for other replies than it holds."""
    deadline_s: float | None = 600.0
    """Votes not in by then are given up; a judgment without any has status timeout. The time begins when the engine has
    room for the comparison. None waits for ever."""

    def __post_init__(self) -> None:
        for name, least in (("max_think_tokens", 1), ("max_answer_tokens", 1), ("votes", 1), ("num_waits", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0.5 <= self.vote_confidence <= 1:
            raise UsageError(f"vote_confidence must be from 0.5 to 1, not {self.vote_confidence}")
        if self.order not in ORDERS:
            raise UsageError(f"order must be one of {', '.join(ORDERS)}, not {self.order!r}")
        if self.votes > 1 and self.temperature == 0 and self.order != "random":
            raise UsageError("votes above 1 need a temperature above 0, or order random: greedy votes are all the same")
        if self.num_waits and not self.reason_first:
            raise UsageError("waits put off the answer, so they need reason_first")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise UsageError(f"deadline_s must be above 0, or None for no deadline, not {self.deadline_s}")

    def answer_room(self, responses: int) -> int:
        """Tokens for what follows the thinking when that many responses are judged together."""
        return self.max_answer_tokens + 16 * max(0, responses - 2)


@dataclass(frozen=True)
class JudgeConfig:
    """Everything a judge is made of; plain data, so that a replica elsewhere can be made from it."""

    engine: EngineConfig
    settings: JudgeSettings = field(default_factory=JudgeSettings)
