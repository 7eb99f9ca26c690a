"""Data types of results: the verdict of a single reply, and the judgment that combines several verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.floats import read_optional_float, read_optional_floats


class Status(StrEnum):
    """Outcome of a judgment. Only OK has scores; a failure is never a score of zero."""

    OK = "ok"
    UNPARSEABLE = "unparseable"
    """The reply has no verdict of the requested form."""
    TRUNCATED = "truncated"
    """The reply ran out of tokens inside the verdict."""
    TIMEOUT = "timeout"
    """The deadline passed."""
    ENGINE_LOST = "engine_lost"
    """The engine died, and no other engine could take over."""
    OVERLONG = "overlong"
    """The prompt does not fit the model's context."""
    INVALID_INPUT = "invalid_input"
    """The comparison cannot be judged in this form: a medium that cannot be read, an unknown form or modality."""
    FAILED = "failed"
    """An unexpected error of the judge or the service, whose log names it."""

    @property
    def is_final(self) -> bool:
        """Whether a retry would give the same status.

        Lost engines and missed deadlines do not depend on the input, and an unexpected error need not.
        """
        return self not in (Status.TIMEOUT, Status.ENGINE_LOST, Status.FAILED)


@dataclass(frozen=True)
class Verdict:
    """Result of one reply. Scores are in the order of the comparison's responses, whatever order the judge read."""

    status: Status
    scores: tuple[float, ...] | None = None
    """One score per response on the rubric's scale; None unless status is ok. With options, each response's share of
    the win: 1 and 0, or 0.5 each if neither is better."""
    expected_scores: tuple[float, ...] | None = None
    """Mean score of each response under the model's distribution over answers; None if the engine reports none."""
    deviations: tuple[float, ...] | None = None
    """Standard deviation of the same distribution, for each response."""
    choice: str | None = None
    """With options: the chosen option (`A>B`, `A=B=Bad`), where A is the comparison's first response."""
    reasoning: str = ""
    """The judge's reasoning."""
    order: tuple[int, ...] = ()
    """Reading order: the judge read response `order[k]` in place k."""
    num_waits: int = 0
    """Number of times that budget forcing appended "Wait"."""
    forced_answer: str | None = None
    """Reason for a forced answer: `budget` (reasoning ran out of tokens), `early_end` (the reply ended inside the
    reasoning), `no_answer` (no valid answer followed the reasoning); None if the judge answered by itself."""
    detail: str = ""
    """For a status other than ok: the problem, in a few words."""

    @property
    def preferred(self) -> int | None:
        """Index of the response with the strictly highest score; None if unscored, tied or alone."""
        return find_preferred_response(self.scores)

    def swap_responses(self) -> Verdict:
        """Return the verdict on the same responses in reverse order."""
        return self.permute_responses(tuple(reversed(range(len(self.scores or self.order)))))

    def permute_responses(self, order: Sequence[int]) -> Verdict:
        """Return the verdict on the comparison after `Comparison.permute_responses(order)`.

        Args:
            order: place k gets the values of response `order[k]`.
        """

        def reorder_values(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[i] for i in order)

        is_swap = tuple(order) == (1, 0)
        new_places = {response: k for k, response in enumerate(order)}
        return replace(
            self,
            scores=reorder_values(self.scores),
            expected_scores=reorder_values(self.expected_scores),
            deviations=reorder_values(self.deviations),
            choice=_SWAPPED_CHOICES.get(self.choice or "", self.choice) if is_swap else self.choice,
            order=tuple(new_places[i] for i in self.order),
        )


# The two kinds of ties are the same in both orders.
_SWAPPED_CHOICES = {"A>B": "B>A", "B>A": "A>B"}


@dataclass(frozen=True)
class Usage:
    """Token counts of all completed replies of a judgment; replies cancelled at a deadline are not counted."""

    prompt_tokens: int = 0
    """Prompt tokens, including cached ones."""
    cached_tokens: int = 0
    """Prompt tokens that the engine had in its prefix cache."""
    generated_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.generated_tokens + other.generated_tokens,
        )

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Usage:
        """Read token counts; unknown keys are ignored.

        Raises:
            UsageError: a count is not an integer of at least 0.
        """
        counts = {f.name: row[f.name] for f in fields(cls) if f.name in row}
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise UsageError(f"usage.{name}: expected an integer of at least 0, got {count!r:.80}")
        return cls(**counts)


RESPONSE_PROBLEMS = "response_problems"
"""Key of a provenance: for an invalid input, the reason of each response that is at fault; empty for the others."""


@dataclass(frozen=True)
class Judgment:
    """The judge's decision on one comparison, combined from its votes."""

    id: str
    """Id of the comparison."""
    status: Status
    """ok if any vote has a score; else the most common status of the votes."""
    scores: tuple[float, ...] | None
    """Mean score of each response over all scored votes."""
    expected_scores: tuple[float, ...] | None
    """Mean expected score of each response; None unless every scored vote has expected scores."""
    reasoning: str
    """Reasoning of the first vote that agrees with the outcome."""
    preferred: int | None = None
    """Index of the response that most votes prefer; None if unscored, tied or a single response."""
    choice: str | None = None
    """With options: the option that most votes chose; None if the top is shared."""
    spread: tuple[float, ...] | None = None
    """Standard deviation of each response's score, within the votes' distributions and between the votes."""
    disagreement: float | None = None
    """Share of rounds whose reading orders prefer different responses, among rounds with every order scored; None
    without such rounds."""
    votes: tuple[Verdict, ...] = ()
    """All verdicts in casting order."""
    usage: Usage = Usage()
    """Token counts of all votes."""
    model: str = ""
    """Name and fingerprint of the judge's model."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the judgment: engine, replica, rubric, settings."""

    @classmethod
    def from_failure(cls, id: str, status: Status, detail: str, **fields: Any) -> Judgment:
        """Create an unscored judgment for a comparison that failed before any reply was parsed.

        Args:
            id: id of the comparison.
            status: reason of the failure.
            detail: the problem, in a few words.
            **fields: other fields of the judgment.
        """
        votes = (Verdict(status, detail=detail),)
        return cls(id, status, scores=None, expected_scores=None, reasoning="", votes=votes, **fields)

    @property
    def detail(self) -> str:
        """Description of the failure; empty if there are scores."""
        return "" if self.scores is not None else next((vote.detail for vote in self.votes if vote.detail), "")

    @property
    def response_problems(self) -> dict[int, str]:
        """Index of each response that makes the input invalid -> reason.

        Empty if the input is valid, or if it is invalid because of its prompt or as a whole.
        """
        problems = self.provenance.get(RESPONSE_PROBLEMS) or ()
        return {i: problem for i, problem in enumerate(problems) if problem}

    def to_json(self) -> dict[str, Any]:
        """Convert to a dictionary of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Judgment:
        """Read a judgment from the dictionary that `to_json` returned; unknown keys are ignored.

        Raises:
            UsageError: the row is not a judgment, or a number in it is not finite.
        """
        with convert_shape_errors("judgment"):
            # Fields that are missing in rows of earlier versions keep their defaults.
            values = {f.name: row[f.name] for f in fields(cls) if f.name in row}
            values |= _read_floats(values, ("scores", "expected_scores", "spread"))
            values["disagreement"] = read_optional_float(values.get("disagreement"), "disagreement")
            values["status"] = Status(row["status"])
            values["votes"] = tuple(map(_verdict_from_json, row["votes"]))
            values["usage"] = Usage.from_json(row["usage"])
            return cls(**values)


def find_preferred_response(scores: Sequence[float] | None) -> int | None:
    """Return the index of the strictly highest score; None without scores, for a tie or a single score."""
    if scores is None or len(scores) < 2:
        return None
    highest = max(scores)
    return scores.index(highest) if scores.count(highest) == 1 else None


def _verdict_from_json(row: Mapping[str, Any]) -> Verdict:
    values = {f.name: row[f.name] for f in fields(Verdict) if f.name in row}
    values |= _read_floats(values, ("scores", "expected_scores", "deviations"))
    values["status"] = Status(row["status"])
    values["order"] = tuple(row.get("order", ()))
    return Verdict(**values)


def _read_floats(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[float, ...] | None]:
    # JSON stores tuples as lists, and some writers store 3.0 as 3.
    return {name: read_optional_floats(values.get(name), name) for name in names}


@contextmanager
def convert_shape_errors(name: str) -> Iterator[None]:
    """Raise UsageError for JSON that lacks fields or has values of other types.

    Args:
        name: what the JSON should be, for the message.
    """
    try:
        yield
    except UsageError as e:
        raise UsageError(f"{name}: {e}") from e
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise UsageError(f"{name}: expected the fields of this version, got a row with another form: {e!r}") from e
