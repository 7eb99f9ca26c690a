"""One comparison within a group: who stood in it, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flex_judge.judges import Judgment


@dataclass(frozen=True)
class Match:
    """One comparison of members of a group, or of one alone."""

    members: tuple[int | None, ...]
    """Who stood at each place, as indexes of the group; None is the baseline of the member beside it."""
    judgment: Judgment | None
    """None where nobody was asked, as the responses are equal."""
    equal: bool = False
    """Whether the responses are equal: a tie, whatever a judge says."""
    round: int = 0
    """Of a knock-out: which round it belongs to, from 1; the final has the highest number."""
    through: int | None = None
    """Of a knock-out: who went on."""

    @property
    def statistics(self) -> tuple[float, ...] | None:
        """The scores by place, expected ones where there are; None without a verdict."""
        if self.judgment is None:
            return None
        expected = self.judgment.expected_scores
        return self.judgment.scores if expected is None else expected

    def won(self, place: int, other: int) -> float | None:
        """What one place has won of another: 1, 0, or a half for a tie; None without a verdict.

        Of a pair it is what most votes prefer; among more it is the higher score, expected where there is one.
        """
        statistics = self.statistics
        if self.equal:
            return 0.5
        if self.judgment is None or statistics is None:
            return None
        if len(self.members) == 2:
            preferred = self.judgment.preferred
            return 0.5 if preferred is None else float(preferred == place)
        return 0.5 if statistics[place] == statistics[other] else float(statistics[place] > statistics[other])

    @property
    def has_verdict(self) -> bool:
        return self.equal or self.statistics is not None

    def without_words(self) -> Match:
        """The same with nothing but its scores, to be kept."""
        if self.judgment is None:
            return self
        return replace(self, judgment=replace(self.judgment, reasoning="", votes=(), provenance={}))
