"""What a judgment is: verdicts of single replies, and what they come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any


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
class Verdict:
    """What one reply of the judge says. Scores are always in the order of the comparison's responses."""

    status: Status
    scores: tuple[float, ...] | None = None
    """One score per response on the rubric's scale; None unless status is ok. For a verdict by options, each
    response's share of the win: 1 and 0, or a half each where neither is better."""
    expected_scores: tuple[float, ...] | None = None
    """The mean score under the model's distribution at the answer; None where the engine gives none."""
    deviations: tuple[float, ...] | None = None
    """The standard deviation of that distribution, per response."""
    choice: str | None = None
    """For a verdict by options: the option, A being the comparison's first response (`A>B`, `A=B=Bad`)."""
    reasoning: str = ""
    """What the judge thought."""
    order: tuple[int, ...] = ()
    """In which order the judge read the responses: response `order[k]` stood at place k."""
    num_waits: int = 0
    """How many times the end of the thinking was put off by "Wait"."""
    forced_answer: str | None = None
    """Why the answer was forced by grammar: `budget` (thinking ran out of tokens), `early_end` (the reply ended while
    it was still thinking), `no_answer` (what followed was no answer, or had no end), or None where the judge
    answered by itself."""
    detail: str = ""
    """For a status other than ok: what was wrong, in a few words."""

    @property
    def preferred(self) -> int | None:
        """Index of the response with the strictly highest score; None if unscored, tied or alone."""
        return find_preferred_response(self.scores)

    def swap_responses(self) -> Verdict:
        """The verdict on the same two responses in reverse order."""
        return self.permute_responses(tuple(reversed(range(len(self.scores or self.order)))))

    def permute_responses(self, order: Sequence[int]) -> Verdict:
        """The verdict on `comparison` as seen from `comparison.permuted(order)`: place k gets what `order[k]` had."""

        def reorder_values(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[i] for i in order)

        turned = self.choice is not None and tuple(order) == (1, 0)
        place = {response: k for k, response in enumerate(order)}
        return replace(
            self,
            scores=reorder_values(self.scores),
            expected_scores=reorder_values(self.expected_scores),
            deviations=reorder_values(self.deviations),
            choice=_SWAPPED_CHOICES.get(self.choice or "", self.choice) if turned else self.choice,
            order=tuple(place[i] for i in self.order),
        )


_SWAPPED_CHOICES = {"A>B": "B>A", "B>A": "A>B"}


@dataclass(frozen=True)
class Usage:
    """Token counts of the replies that one judgment is made of; those that were given up at a deadline are left out."""

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
    """The judge's decision on one comparison: what its votes come to."""

    id: str
    status: Status
    """ok if any vote has a score; else the commonest status of the votes."""
    scores: tuple[float, ...] | None
    """Means of the votes that have a score."""
    expected_scores: tuple[float, ...] | None
    """Means of the votes' expected scores; None unless every scored vote has them."""
    reasoning: str
    """The reasoning of the first vote that agrees with the outcome."""
    preferred: int | None = None
    """The response that most votes prefer; None if unscored, tied or alone."""
    choice: str | None = None
    """For a verdict by options: the option that most votes chose; None if two are level."""
    spread: tuple[float, ...] | None = None
    """Per response, the standard deviation of the score: within the votes' distributions and between the votes."""
    disagreement: float | None = None
    """Of the rounds in which every order was scored, the share in which two orders prefer different things; None where
    there is no such round."""
    votes: tuple[Verdict, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    """Name and fingerprint of the judge's model."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where and how it was judged: engine, replica, rubric."""

    @classmethod
    def from_failure(cls, id: str, status: Status, detail: str, **rest: Any) -> Judgment:
        """A judgment that failed before any reply could be read."""
        return cls(id, status, None, None, "", votes=(Verdict(status, detail=detail),), **rest)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Judgment:
        values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        values |= {name: _to_float_tuple(values.get(name)) for name in ("scores", "expected_scores", "spread")}
        values["status"] = Status(row["status"])
        values["votes"] = tuple(map(_verdict_from_json, row["votes"]))
        values["usage"] = Usage(**row["usage"])
        return cls(**values)


def find_preferred_response(scores: Sequence[float] | None) -> int | None:
    """Index of the strictly highest score; None if there are none, a tie, or fewer than two."""
    if scores is None or len(scores) < 2:
        return None
    best = max(scores)
    return scores.index(best) if scores.count(best) == 1 else None


def _verdict_from_json(row: Mapping[str, Any]) -> Verdict:
    values = {f.name: row[f.name] for f in fields(Verdict) if f.name in row}
    values |= {name: _to_float_tuple(values.get(name)) for name in ("scores", "expected_scores", "deviations")}
    values["status"] = Status(row["status"])
    values["order"] = tuple(row.get("order", ()))
    return Verdict(**values)


def _to_float_tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(v) for v in values)
