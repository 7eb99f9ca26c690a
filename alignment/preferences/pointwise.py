"""Rules for answers that are judged alone: which of them are held against each other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from flex_judge.alignment.best_of_n.selection import judgment_sort_key
from flex_judge.alignment.data.rows import SampledPrompt
from flex_judge.alignment.data.texts import compute_seeded_hash, is_empty_response, strip_response
from flex_judge.alignment.preferences.pairs import Pair, PairResult, get_drop_reason, make_side, score_difference
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.rewards import get_written_score


@dataclass(frozen=True)
class ScoredCandidate:
    """An answer that has a text and a score."""

    index: int
    judgment: Judgment


class PointwiseRule(ABC):
    """Rules for answers that are judged alone: equal answers once, empty ones not at all.

    Answers are ordered by written score, within it by expected score. Expected scores never make a pair of two with the
    same written score: a pair always has a written score on the chosen side that is higher.
    """

    order: ClassVar[str] = "as_given"
    name: ClassVar[str]

    def __init__(self, spec: RuleSpec) -> None:
        self.spec = spec

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        if len(temperatures) < 2:
            raise UsageError(f"rule {self.name} needs at least 2 answers to a prompt, not {len(temperatures)}")

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        first = _index_distinct_answers(sampled)
        if len(first) < 2:
            return []
        row = sampled.row
        return [
            Comparison(_make_comparison_id(sampled, i), row.prompt, (sampled.responses[i],), rubric)
            for i in first.values()
        ]

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        first = _index_distinct_answers(sampled)
        if len(first) < 2:
            return PairResult.without_pairs(get_drop_reason(sampled))
        said = {judgment.id: judgment for judgment in judgments}
        candidates = []
        for i, response in enumerate(sampled.responses):
            if not is_empty_response(response):
                judgment = said.get(_make_comparison_id(sampled, i)) or said.get(
                    _make_comparison_id(sampled, first[strip_response(response)])
                )
                if judgment is not None and get_written_score(judgment) is not None:
                    candidates.append(ScoredCandidate(i, judgment))
        if len(candidates) < 2:
            return PairResult.without_pairs("unscored")
        return self.pair_candidates(
            sampled,
            sorted(
                candidates, key=lambda c: (judgment_sort_key(c.judgment), self._hash_candidate(sampled, c), c.index)
            ),
        )

    def _hash_candidate(self, sampled: SampledPrompt, candidate: ScoredCandidate) -> str:
        return compute_seeded_hash(self.spec.seed, sampled.row.id, sampled.responses[candidate.index])

    @abstractmethod
    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        """Pairs of two or more candidates, which come in the order of their scores, lowest first."""

    def make_pair(self, sampled: SampledPrompt, chosen: ScoredCandidate, rejected: ScoredCandidate) -> PairResult:
        """The pair of two candidates, or why there is none."""
        high, low = (make_side(sampled, candidate.index, candidate.judgment) for candidate in (chosen, rejected))
        if score_difference(high.score, low.score) <= 0:
            return PairResult.without_pairs("tied")
        if strip_response(high.response) == strip_response(low.response):
            return PairResult.without_pairs("equal_text")
        wins, losses = (_collect_vote_scores(c.judgment) for c in (chosen, rejected))
        pair = Pair(
            sampled.row,
            high,
            low,
            rule=self.name,
            votes=len(wins) + len(losses),
            disagreement=_compute_disagreement(wins, losses),
            rubric=str(chosen.judgment.provenance.get("rubric", "")),
            judge=chosen.judgment.model,
            policy=sampled.policy,
        )
        return PairResult((pair,))


class HighestLowest(PointwiseRule):
    """The answer with the highest score against the one with the lowest."""

    name = "highest_lowest"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        return self.make_pair(sampled, candidates[-1], candidates[0])


class HighestQuantile(PointwiseRule):
    """The answer with the highest score against the one at a quantile.

    Of many samples the lowest is an outlier, and a policy learns less from being told that it is bad: with the minimum
    as rejected answer, results get worse as N grows (arXiv 2502.16825).
    """

    name = "highest_quantile"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        place = math.floor(self.spec.quantile * (len(candidates) - 1))
        return self.make_pair(sampled, candidates[-1], candidates[place])


class AllPairs(PointwiseRule):
    """Every two different answers whose scores differ. How many are kept of one prompt, and from which margin on, is a
    filter's."""

    name = "all_pairs"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        different: dict[object, ScoredCandidate] = {}
        for candidate in reversed(candidates):
            different.setdefault(strip_response(sampled.responses[candidate.index]), candidate)
        if len(different) < 2:
            return PairResult.without_pairs("equal_text")
        found = [self.make_pair(sampled, high, low) for high, low in combinations(different.values(), 2)]
        dropped = sum((one.dropped for one in found), Counter[str]())
        return PairResult(tuple(pair for one in found for pair in one.pairs), dropped)


def _index_distinct_answers(sampled: SampledPrompt) -> dict[object, int]:
    """Different answers that have a text -> the index of the first with it."""
    found: dict[object, int] = {}
    for i, response in enumerate(sampled.responses):
        if not is_empty_response(response):
            found.setdefault(strip_response(response), i)
    return found


def _make_comparison_id(sampled: SampledPrompt, index: int) -> str:
    return f"{sampled.row.id}/{index}"


def _collect_vote_scores(judgment: Judgment) -> list[float]:
    """The written scores of its votes; its own where the votes were not kept."""
    scores = [vote.scores[0] for vote in judgment.votes if vote.scores is not None]
    return scores or [score for score in [get_written_score(judgment)] if score is not None]


def _compute_disagreement(wins: Sequence[float], losses: Sequence[float]) -> float:
    """Of all combinations of a score of one and a score of the other, how many do not put the first above; a tie is
    half such a combination."""
    missing = [1.0 if high < low else 0.5 if high == low else 0.0 for high in wins for low in losses]
    return math.fsum(missing) / len(missing)
