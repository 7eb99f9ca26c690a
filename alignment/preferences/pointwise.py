"""Rules for answers that are judged alone: which of them are held against each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from flex_judge.alignment.best_of_n.selection import rank
from flex_judge.alignment.data.rows import Sampled
from flex_judge.alignment.data.texts import is_empty, same, seeded_hash
from flex_judge.alignment.preferences.pairs import Found, Pair, difference, lacking, side_of
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.rewards import written_score


@dataclass(frozen=True)
class Candidate:
    """An answer that has a text and a score."""

    index: int
    judgment: Judgment


class Pointwise(ABC):
    """Rules for answers that are judged alone: equal answers once, empty ones not at all.

    Answers are ordered by written score, within it by expected score. Expected scores never make a pair of two with the
    same written score: a pair always has a written score on the chosen side that is higher.
    """

    order: ClassVar[str] = "as_given"
    name: ClassVar[str]

    def __init__(self, spec: RuleSpec) -> None:
        self.spec = spec

    def check(self, temperatures: Sequence[float]) -> None:
        if len(temperatures) < 2:
            raise UsageError(f"rule {self.name} needs at least 2 answers to a prompt, not {len(temperatures)}")

    def comparisons(self, sampled: Sampled, rubric: str) -> list[Comparison]:
        first = _first_of_each(sampled)
        if len(first) < 2:
            return []
        row = sampled.row
        return [Comparison(_name(sampled, i), row.prompt, (sampled.responses[i],), rubric) for i in first.values()]

    def pairs(self, sampled: Sampled, judgments: Iterable[Judgment]) -> Found:
        first = _first_of_each(sampled)
        if len(first) < 2:
            return Found.none(lacking(sampled))
        said = {judgment.id: judgment for judgment in judgments}
        candidates = []
        for i, response in enumerate(sampled.responses):
            if not is_empty(response):
                judgment = said.get(_name(sampled, i)) or said.get(_name(sampled, first[same(response)]))
                if judgment is not None and written_score(judgment) is not None:
                    candidates.append(Candidate(i, judgment))
        if len(candidates) < 2:
            return Found.none("unscored")
        return self.paired(
            sampled, sorted(candidates, key=lambda c: (rank(c.judgment), self._tie_break(sampled, c), c.index))
        )

    def _tie_break(self, sampled: Sampled, candidate: Candidate) -> str:
        return seeded_hash(self.spec.seed, sampled.row.id, sampled.responses[candidate.index])

    @abstractmethod
    def paired(self, sampled: Sampled, candidates: Sequence[Candidate]) -> Found:
        """Pairs of two or more candidates, which come in the order of their scores, lowest first."""

    def pair(self, sampled: Sampled, chosen: Candidate, rejected: Candidate) -> Found:
        """The pair of two candidates, or why there is none."""
        high, low = (side_of(sampled, candidate.index, candidate.judgment) for candidate in (chosen, rejected))
        if difference(high.score, low.score) <= 0:
            return Found.none("tied")
        if same(high.response) == same(low.response):
            return Found.none("equal_text")
        wins, losses = (_scores_of_votes(c.judgment) for c in (chosen, rejected))
        pair = Pair(
            sampled.row,
            high,
            low,
            rule=self.name,
            votes=len(wins) + len(losses),
            disagreement=_share_not_above(wins, losses),
            rubric=str(chosen.judgment.provenance.get("rubric", "")),
            judge=chosen.judgment.model,
            policy=sampled.policy,
        )
        return Found((pair,))


class HighestLowest(Pointwise):
    """The answer with the highest score against the one with the lowest."""

    name = "highest_lowest"

    def paired(self, sampled: Sampled, candidates: Sequence[Candidate]) -> Found:
        return self.pair(sampled, candidates[-1], candidates[0])


class HighestQuantile(Pointwise):
    """The answer with the highest score against the one at a quantile.

    Of many samples the lowest is an outlier, and a policy learns less from being told that it is bad: with the minimum
    as rejected answer, results get worse as N grows (arXiv 2502.16825).
    """

    name = "highest_quantile"

    def paired(self, sampled: Sampled, candidates: Sequence[Candidate]) -> Found:
        place = math.floor(self.spec.quantile * (len(candidates) - 1))
        return self.pair(sampled, candidates[-1], candidates[place])


class AllPairs(Pointwise):
    """Every two different answers whose scores differ. How many are kept of one prompt, and from which margin on, is a
    filter's."""

    name = "all_pairs"

    def paired(self, sampled: Sampled, candidates: Sequence[Candidate]) -> Found:
        different: dict[object, Candidate] = {}
        for candidate in reversed(candidates):
            different.setdefault(same(sampled.responses[candidate.index]), candidate)
        if len(different) < 2:
            return Found.none("equal_text")
        found = [self.pair(sampled, high, low) for high, low in combinations(different.values(), 2)]
        dropped = sum((one.dropped for one in found), Counter[str]())
        return Found(tuple(pair for one in found for pair in one.pairs), dropped)


def _first_of_each(sampled: Sampled) -> dict[object, int]:
    """Different answers that have a text -> the index of the first with it."""
    found: dict[object, int] = {}
    for i, response in enumerate(sampled.responses):
        if not is_empty(response):
            found.setdefault(same(response), i)
    return found


def _name(sampled: Sampled, index: int) -> str:
    return f"{sampled.row.id}/{index}"


def _scores_of_votes(judgment: Judgment) -> list[float]:
    """The written scores of its votes; its own where the votes were not kept."""
    scores = [vote.scores[0] for vote in judgment.votes if vote.scores is not None]
    return scores or [score for score in [written_score(judgment)] if score is not None]


def _share_not_above(wins: Sequence[float], losses: Sequence[float]) -> float:
    """Of all combinations of a score of one and a score of the other, how many do not put the first above; a tie is
    half such a combination."""
    missing = [1.0 if high < low else 0.5 if high == low else 0.0 for high in wins for low in losses]
    return math.fsum(missing) / len(missing)
