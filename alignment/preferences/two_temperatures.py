"""The paper's rule: an answer sampled cold against one sampled hot, judged together in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from flex_judge.alignment.data.rows import SampledPrompt
from flex_judge.alignment.data.texts import is_empty_response, strip_response
from flex_judge.alignment.preferences.pairs import Pair, PairResult, get_drop_reason, make_side, score_difference
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Verdict
from flex_judge.judges.types import Comparison


class TwoTemperatures:
    """One sample at each of two temperatures (the paper: 0.8 and 1.2), a pair only where one wins in both orders
    (arXiv 2505.18601).

    With several votes, an answer wins an order if more of that order's votes prefer it than the other. The paper keeps
    a pair only where the answer of the lower temperature wins, see `RuleSpec.winner`. Of several samples at one
    temperature the first is taken.
    """

    order: ClassVar[str] = "both"
    name: ClassVar[str] = "two_temperatures"

    def __init__(self, spec: RuleSpec) -> None:
        self.spec = spec

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        if len(set(temperatures)) != 2:
            found = ", ".join(f"{t:g}" for t in sorted(set(temperatures))) or "none"
            raise UsageError(f"rule {self.name} needs answers sampled at two temperatures, not at: {found}")

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        low, high = self._find_low_and_high(sampled)
        if not _has_distinct_answers(sampled, low, high):
            return []
        responses = sampled.responses[low], sampled.responses[high]
        return [Comparison(_make_comparison_id(sampled, low, high), sampled.row.prompt, responses, rubric)]

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        members = self._find_low_and_high(sampled)
        if not _has_distinct_answers(sampled, *members):
            return PairResult.without_pairs(get_drop_reason(sampled))
        name = _make_comparison_id(sampled, *members)
        judgment = next((judgment for judgment in judgments if judgment.id == name), None)
        if judgment is None or judgment.scores is None:
            return PairResult.without_pairs("unscored")
        votes = [vote for vote in judgment.votes if vote.scores is not None]
        winners = _find_winners(name, judgment.votes)
        if len({vote.order for vote in votes}) < len(winners):
            return PairResult.without_pairs("unscored")  # in one of the orders
        if None in winners:
            return PairResult.without_pairs("tied")
        if len(set(winners)) > 1:
            return PairResult.without_pairs("orders_disagree")
        won = winners[0]
        assert won is not None, "ties are dropped above"
        if self.spec.winner not in ("either", ("low", "high")[won]):
            return PairResult.without_pairs("wrong_side")
        chosen, rejected = (make_side(sampled, members[place], judgment, place) for place in (won, 1 - won))
        if score_difference(chosen.score, rejected.score) <= 0:  # a few votes by much can outweigh more votes by little
            return PairResult.without_pairs("tied")
        against = sum(1.0 if vote.preferred == 1 - won else 0.5 for vote in votes if vote.preferred != won)
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
        """The first sample at the lower temperature, and the first at the higher one."""
        self.check_temperatures(sampled.temperatures)
        low, high = (sampled.temperatures.index(t) for t in sorted(set(sampled.temperatures)))
        return low, high


def _has_distinct_answers(sampled: SampledPrompt, low: int, high: int) -> bool:
    one, other = sampled.responses[low], sampled.responses[high]
    return not is_empty_response(one) and not is_empty_response(other) and strip_response(one) != strip_response(other)


def _find_winners(name: str, votes: Sequence[Verdict]) -> list[int | None]:
    """Of each order, the response that more of its scored votes prefer; None for a tie."""
    preferred: dict[tuple[int, ...], Counter[int | None]] = {vote.order: Counter() for vote in votes}
    if len(preferred) < 2:
        raise UsageError(f"rule two_temperatures: {name!r} was judged in one order; judge with order 'both'")
    for vote in votes:
        if vote.scores is not None:
            preferred[vote.order][vote.preferred] += 1
    return [None if p[0] == p[1] else int(p[1] > p[0]) for p in preferred.values()]


def _make_comparison_id(sampled: SampledPrompt, low: int, high: int) -> str:
    return f"{sampled.row.id}/{low}-{high}"
