"""The paper's rule: two answers sampled at different temperatures, judged together in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from flex_judge.alignment.data.rows import SampledPrompt
from flex_judge.alignment.data.texts import is_empty_response, make_equality_key
from flex_judge.alignment.preferences.pairs import Pair, PairResult, get_drop_reason, make_side, score_difference
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Verdict
from flex_judge.judges.types import Comparison


class TwoTemperatures:
    """Rule that pairs one sample at each of two temperatures if the same one wins in both orders (arXiv 2505.18601).

    The paper samples at 0.8 and 1.2 and keeps a pair only if the answer of the lower temperature wins, see
    `RuleSpec.winner`. With several votes, an answer wins an order if more votes of that order prefer it than the other.
    If there are several samples at one temperature, the first is used.
    """

    order: ClassVar[str] = "both"
    name: ClassVar[str] = "two_temperatures"

    def __init__(self, spec: RuleSpec) -> None:
        """Create the rule from its settings."""
        self.spec = spec

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        """See `Rule.check_temperatures`."""
        distinct = sorted(set(temperatures))
        if len(distinct) != 2:
            listed = ", ".join(f"{t:g}" for t in distinct) or "none"
            raise UsageError(f"rule {self.name} needs answers sampled at exactly two temperatures, got: {listed}")

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        """See `Rule.make_comparisons`."""
        low, high = self._find_low_and_high(sampled)
        if not _has_distinct_answers(sampled, low, high):
            return []
        responses = sampled.responses[low], sampled.responses[high]
        return [Comparison(_make_comparison_id(sampled, low, high), sampled.row.prompt, responses, rubric)]

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        """See `Rule.make_pairs`."""
        members = self._find_low_and_high(sampled)
        if not _has_distinct_answers(sampled, *members):
            return PairResult.without_pairs(get_drop_reason(sampled))
        comparison_id = _make_comparison_id(sampled, *members)
        judgment = next((judgment for judgment in judgments if judgment.id == comparison_id), None)
        if judgment is None or judgment.scores is None:
            return PairResult.without_pairs("unscored")
        votes = [vote for vote in judgment.votes if vote.scores is not None]
        winners = _find_winners(comparison_id, judgment.votes)
        if len({vote.order for vote in votes}) < len(winners):
            return PairResult.without_pairs("unscored")  # one of the orders has no scored vote
        if None in winners:
            return PairResult.without_pairs("tied")
        if len(set(winners)) > 1:
            return PairResult.without_pairs("orders_disagree")
        winner = winners[0]
        assert winner is not None, "ties are dropped above"
        if self.spec.winner not in ("either", ("low", "high")[winner]):
            return PairResult.without_pairs("wrong_side")
        loser = 1 - winner
        chosen = make_side(sampled, members[winner], judgment, winner)
        rejected = make_side(sampled, members[loser], judgment, loser)
        # A few votes by a large margin can outweigh the majority in the mean scores.
        if score_difference(chosen.score, rejected.score) <= 0:
            return PairResult.without_pairs("tied")
        against = sum(1.0 if vote.preferred == loser else 0.5 for vote in votes if vote.preferred != winner)
        pair = Pair(
            sampled.row,
            chosen,
            rejected,
            rule=self.name,
            votes=len(votes),
            disagreement=against / len(votes),
            rubric=str(judgment.provenance.get("rubric", "")),
            judge=judgment.model,
            policy=sampled.policy,
        )
        return PairResult((pair,))

    def _find_low_and_high(self, sampled: SampledPrompt) -> tuple[int, int]:
        """Return the indexes of the first sample at the lower and at the higher temperature."""
        self.check_temperatures(sampled.temperatures)
        low, high = (sampled.temperatures.index(t) for t in sorted(set(sampled.temperatures)))
        return low, high


def _has_distinct_answers(sampled: SampledPrompt, low: int, high: int) -> bool:
    answers = sampled.responses[low], sampled.responses[high]
    return not any(map(is_empty_response, answers)) and make_equality_key(answers[0]) != make_equality_key(answers[1])


def _find_winners(comparison_id: str, votes: Sequence[Verdict]) -> list[int | None]:
    """Return, for each order, the response that more scored votes prefer; None for a tie."""
    counts: dict[tuple[int, ...], Counter[int | None]] = {vote.order: Counter() for vote in votes}
    if len(counts) < 2:
        raise UsageError(
            f"rule two_temperatures: {comparison_id!r} was judged in one order only; judge with order 'both'"
        )
    for vote in votes:
        if vote.scores is not None:
            counts[vote.order][vote.preferred] += 1
    return [None if count[0] == count[1] else int(count[1] > count[0]) for count in counts.values()]


def _make_comparison_id(sampled: SampledPrompt, low: int, high: int) -> str:
    return f"{sampled.row.id}/{low}-{high}"
