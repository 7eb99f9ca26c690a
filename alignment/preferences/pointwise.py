"""Pointwise rules: pair answers that were judged one by one."""

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
from flex_judge.alignment.data.texts import compute_seeded_hash, is_empty_response, make_equality_key
from flex_judge.alignment.preferences.pairs import Pair, PairResult, get_drop_reason, make_side, score_difference
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.rewards import get_written_score


@dataclass(frozen=True)
class ScoredCandidate:
    """Non-empty answer with a scored judgment."""

    index: int
    judgment: Judgment


class PointwiseRule(ABC):
    """Base class of rules that judge each distinct, non-empty answer alone.

    Answers are ordered by written score, then by expected score. The chosen answer of a pair always has the higher
    written score; expected scores alone never make a pair.
    """

    order: ClassVar[str] = "as_given"
    name: ClassVar[str]

    def __init__(self, spec: RuleSpec) -> None:
        """Create the rule from its settings."""
        self.spec = spec

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        """See `Rule.check_temperatures`."""
        if len(temperatures) < 2:
            raise UsageError(f"rule {self.name} needs at least 2 answers per prompt, got {len(temperatures)}")

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        """See `Rule.make_comparisons`."""
        first_index = _index_distinct_answers(sampled)
        if len(first_index) < 2:
            return []
        return [
            Comparison(_make_comparison_id(sampled, i), sampled.row.prompt, (sampled.responses[i],), rubric)
            for i in first_index.values()
        ]

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        """See `Rule.make_pairs`."""
        first_index = _index_distinct_answers(sampled)
        if len(first_index) < 2:
            return PairResult.without_pairs(get_drop_reason(sampled))
        judgment_by_id = {judgment.id: judgment for judgment in judgments}
        candidates = []
        for i, response in enumerate(sampled.responses):
            if is_empty_response(response):
                continue
            # A copy of an earlier answer has no judgment of its own and takes over that answer's.
            original_id = _make_comparison_id(sampled, first_index[make_equality_key(response)])
            judgment = judgment_by_id.get(_make_comparison_id(sampled, i)) or judgment_by_id.get(original_id)
            if judgment is not None and get_written_score(judgment) is not None:
                candidates.append(ScoredCandidate(i, judgment))
        if len(candidates) < 2:
            return PairResult.without_pairs("unscored")
        # The hash breaks ties by content, so that the order of the answers makes no difference.
        candidates.sort(key=lambda c: (judgment_sort_key(c.judgment), self._hash_candidate(sampled, c), c.index))
        return self.pair_candidates(sampled, candidates)

    def _hash_candidate(self, sampled: SampledPrompt, candidate: ScoredCandidate) -> str:
        return compute_seeded_hash(self.spec.seed, sampled.row.id, sampled.responses[candidate.index])

    @abstractmethod
    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        """Pair two or more candidates, given in ascending order of score."""

    def make_pair(self, sampled: SampledPrompt, chosen: ScoredCandidate, rejected: ScoredCandidate) -> PairResult:
        """Make the pair of two candidates, or return the reason why they make none."""
        high = make_side(sampled, chosen.index, chosen.judgment)
        low = make_side(sampled, rejected.index, rejected.judgment)
        if score_difference(high.score, low.score) <= 0:
            return PairResult.without_pairs("tied")
        if make_equality_key(high.response) == make_equality_key(low.response):
            return PairResult.without_pairs("equal_text")
        chosen_scores = _collect_vote_scores(chosen.judgment)
        rejected_scores = _collect_vote_scores(rejected.judgment)
        pair = Pair(
            sampled.row,
            high,
            low,
            rule=self.name,
            votes=len(chosen_scores) + len(rejected_scores),
            disagreement=_compute_disagreement(chosen_scores, rejected_scores),
            rubric=str(chosen.judgment.provenance.get("rubric", "")),
            judge=chosen.judgment.model,
            policy=sampled.policy,
        )
        return PairResult((pair,))


class HighestLowest(PointwiseRule):
    """Rule that pairs the answer with the highest score with the one with the lowest."""

    name = "highest_lowest"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        """See `PointwiseRule.pair_candidates`."""
        return self.make_pair(sampled, candidates[-1], candidates[0])


class HighestQuantile(PointwiseRule):
    """Rule that pairs the answer with the highest score with the one at a quantile of the scores.

    The lowest of many samples is an outlier that teaches a policy little: with the minimum as rejected answer,
    results get worse as N grows (arXiv 2502.16825).
    """

    name = "highest_quantile"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        """See `PointwiseRule.pair_candidates`."""
        rank = math.floor(self.spec.quantile * (len(candidates) - 1))
        return self.make_pair(sampled, candidates[-1], candidates[rank])


class AllPairs(PointwiseRule):
    """Rule that pairs every two different answers whose scores differ.

    Filters limit the margin and the number of pairs per prompt.
    """

    name = "all_pairs"

    def pair_candidates(self, sampled: SampledPrompt, candidates: Sequence[ScoredCandidate]) -> PairResult:
        """See `PointwiseRule.pair_candidates`."""
        distinct: dict[object, ScoredCandidate] = {}
        for candidate in reversed(candidates):
            distinct.setdefault(make_equality_key(sampled.responses[candidate.index]), candidate)
        if len(distinct) < 2:
            return PairResult.without_pairs("equal_text")
        pairs: list[Pair] = []
        dropped: Counter[str] = Counter()
        for high, low in combinations(distinct.values(), 2):
            result = self.make_pair(sampled, high, low)
            pairs += result.pairs
            dropped += result.dropped
        return PairResult(tuple(pairs), dropped)


def _index_distinct_answers(sampled: SampledPrompt) -> dict[object, int]:
    """Map each distinct non-empty answer to the index of its first occurrence."""
    first_index: dict[object, int] = {}
    for i, response in enumerate(sampled.responses):
        if not is_empty_response(response):
            first_index.setdefault(make_equality_key(response), i)
    return first_index


def _make_comparison_id(sampled: SampledPrompt, index: int) -> str:
    return f"{sampled.row.id}/{index}"


def _collect_vote_scores(judgment: Judgment) -> list[float]:
    """Return the written scores of the votes, or the judgment's own score if its votes were not kept."""
    scores = [vote.scores[0] for vote in judgment.votes if vote.scores is not None]
    return scores or [score for score in [get_written_score(judgment)] if score is not None]


def _compute_disagreement(chosen_scores: Sequence[float], rejected_scores: Sequence[float]) -> float:
    """Compute the fraction of vote combinations that do not prefer the chosen answer; a tie counts half."""
    against = [1.0 if high < low else 0.5 if high == low else 0.0 for high in chosen_scores for low in rejected_scores]
    return math.fsum(against) / len(against)
