"""What is judged and what a judgment is: plain, frozen, picklable, free of any model library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from judges.errors import UsageError


class Status(StrEnum):
    """How a judgment ended. Everything but OK has no score: unscored is not zero."""

    OK = "ok"
    UNPARSEABLE = "unparseable"  # the reply has no verdict of the form that was asked for
    TRUNCATED = "truncated"  # the reply ran out of tokens inside the verdict
    TIMEOUT = "timeout"  # the deadline passed
    ENGINE_LOST = "engine_lost"  # the engine died, and no other could take over
    OVERLONG = "overlong"  # the prompt does not fit the model's context

    @property
    def is_final(self) -> bool:
        """Whether judging again would end the same; a lost engine or a missed deadline says nothing of the input."""
        return self not in (Status.TIMEOUT, Status.ENGINE_LOST)


@dataclass(frozen=True)
class Message:
    role: str
    """`system`, `user` or `assistant`."""
    content: str
    """Text. Treated as untrusted: control tokens written in it stay ordinary text."""


@dataclass(frozen=True)
class Comparison:
    """One question and the candidate responses to be judged together (1 is a single score, 2 a pair)."""

    id: str
    """Identity of the comparison within its run; judgments are matched by it, never by position."""
    prompt: tuple[Message, ...]
    """The conversation so far; its last message is the question."""
    responses: tuple[str, ...]
    """Candidate answers, in the order in which the judge reads them."""
    rubric: str = "general"
    """Name of the rubric, see `judges.rubrics`."""

    @classmethod
    def of(cls, prompt: str | Sequence[Any], *responses: Any, rubric: str = "general", id: str = "") -> Comparison:
        """Build from strings or from lists of `{"role", "content"}` messages, as trainers and data sets hold them."""
        return cls(id, messages_of(prompt), tuple(text_of(r) for r in responses), rubric)

    def swapped(self) -> Comparison:
        """The same comparison with its responses in reverse order."""
        return Comparison(self.id, self.prompt, self.responses[::-1], self.rubric)


@dataclass(frozen=True)
class Verdict:
    """What one reply of the judge says."""

    status: Status
    scores: tuple[float, ...] | None = None
    """One score per response on the rubric's scale; None unless status is ok."""
    expected_scores: tuple[float, ...] | None = None
    """The mean of the scale under the model's distribution at the answer tokens; None where the engine gives none."""
    reasoning: str = ""
    """What the judge thought before it answered."""
    forced: str | None = None
    """Why the answer was forced by grammar: `budget` (thinking ran out of tokens), `early_end` (the reply ended
    without a verdict), or None where the judge answered by itself."""
    detail: str = ""
    """For a status other than ok: what was wrong, in a few words."""

    def swapped(self) -> Verdict:
        """The verdict on the same responses in reverse order."""
        return Verdict(
            self.status,
            None if self.scores is None else self.scores[::-1],
            None if self.expected_scores is None else self.expected_scores[::-1],
            self.reasoning,
            self.forced,
            self.detail,
        )


@dataclass(frozen=True)
class Usage:
    """Token counts of everything one judgment asked of its engine."""

    prompt_tokens: int = 0
    """Tokens sent, cached ones included."""
    cached_tokens: int = 0
    """Of those, tokens whose key-value states the engine already had."""
    generated_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.generated_tokens + other.generated_tokens,
        )


@dataclass(frozen=True)
class Judgment:
    """The judge's decision on one comparison."""

    id: str
    status: Status
    scores: tuple[float, ...] | None
    expected_scores: tuple[float, ...] | None
    reasoning: str
    votes: tuple[Verdict, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    """Name and fingerprint of the judge's model."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where and how it was judged: engine, replica, rubric."""

    @property
    def preferred(self) -> int | None:
        """Index of the response with the strictly highest score; None if unscored, tied or alone."""
        if self.scores is None or len(self.scores) < 2:
            return None
        best = max(self.scores)
        return self.scores.index(best) if self.scores.count(best) == 1 else None

    @classmethod
    def unscored(cls, id: str, status: Status, detail: str, **rest: Any) -> Judgment:
        """A judgment that failed before any reply could be read."""
        return cls(id, status, None, None, "", (Verdict(status, detail=detail),), **rest)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "preferred": self.preferred}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Judgment:
        votes = tuple(
            Verdict(
                Status(v["status"]),
                _floats(v["scores"]),
                _floats(v["expected_scores"]),
                v["reasoning"],
                v["forced"],
                v["detail"],
            )
            for v in row["votes"]
        )
        return cls(
            id=row["id"],
            status=Status(row["status"]),
            scores=_floats(row["scores"]),
            expected_scores=_floats(row["expected_scores"]),
            reasoning=row["reasoning"],
            votes=votes,
            usage=Usage(**row["usage"]),
            model=row["model"],
            provenance=row["provenance"],
        )


def messages_of(prompt: str | Sequence[Any]) -> tuple[Message, ...]:
    """A prompt in any of the usual shapes, as messages: a string is one user message."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, Sequence):
        raise UsageError(f"prompt: expected text or a list of messages, got {prompt!r:.80}")
    messages = []
    for m in prompt:
        if isinstance(m, Message):
            messages.append(m)
        elif isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str):
            messages.append(Message(m["role"], m["content"]))
        else:
            raise UsageError(f"prompt: expected text or messages with a text 'role' and 'content', got {m!r:.80}")
    if not messages:
        raise UsageError("prompt: expected text or a list of messages, got an empty list")
    return tuple(messages)


def text_of(response: Any) -> str:
    """A response as text: a string as it is, messages joined by blank lines."""
    if isinstance(response, str):
        return response
    return "\n\n".join(m.content for m in messages_of(response))


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
