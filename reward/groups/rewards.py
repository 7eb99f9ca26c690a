"""Compute the statistics of each group member from its matches, and the rewards from these statistics.

A completion without a verdict has no reward: None, never a number. All functions are pure: no engine, no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flex_judge.judges.judgments import Judgment, Status, Usage
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.reward.groups.match import Match, find_exit_rounds
from flex_judge.reward.groups.strengths import fit_matches, predict_win_rates
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec


def get_written_score(judgment: Judgment) -> float | None:
    """Return the score that the judge wrote for the first response, on its rubric's scale."""
    return None if judgment.scores is None else judgment.scores[0]


def get_expected_score(judgment: Judgment) -> float | None:
    """Return the expected score of the first response: the mean of the judge's distribution over the scale.

    It is finer than the written score. None if the engine gives no distribution.
    """
    return None if judgment.expected_scores is None else judgment.expected_scores[0]


def scale_score(score: float, rubric: Rubric | str) -> float:
    """Scale a score to its rubric's range: 0 is the worst score, 1 the best."""
    scale = (get_rubric(rubric) if isinstance(rubric, str) else rubric).scale
    return (score - scale.low) / (scale.high - scale.low)


def build_rewards(
    matches: Sequence[Match], spec: RewardSpec, info: GroupInfo, targets: Collection[int] | None = None
) -> list[Reward]:
    """Build the rewards of a group's members.

    Args:
        matches: the matches of the group, see `flex_judge.reward.groups.methods.judge_group`. Matches of members
            outside `targets` still count for ranks and for normalization.
        spec: statistic and normalization of the reward.
        info: group metadata; `info.size` is the number of members.
        targets: indices of the members that get a reward; None for all.

    Returns:
        One reward for each target, ordered by index. Its status is ok exactly if it has a value.
    """
    members = range(info.size)
    statistics = compute_statistics(matches, spec.method)
    values = normalize_values(_select_statistic(statistics, spec.reward), spec.normalize)
    matches_by_member: dict[int, list[Match]] = {member: [] for member in members}
    for match in matches:
        for member in match.members:
            if member is not None:
                matches_by_member[member].append(match)
    return [
        _build_reward(member, statistics, values, info, matches_by_member)
        for member in (members if targets is None else sorted(targets))
    ]


def _select_statistic(statistics: MemberStatistics, name: str) -> MemberValues:
    """Select the statistic that becomes the reward.

    A missing expected score is replaced by the written score, which is on the same scale. Otherwise a completion would
    lose its reward whenever the engine gives no distribution for one of its scores.
    """
    if name == "expected":
        return statistics.best_scores
    values: MemberValues = getattr(statistics, name)
    return values


def _build_reward(
    member: int,
    statistics: MemberStatistics,
    values: MemberValues,
    info: GroupInfo,
    matches_by_member: dict[int, list[Match]],
) -> Reward:
    matches = matches_by_member[member]
    judgments = [match.judgment for match in matches if match.judgment is not None]
    value = values.get(member)
    if value is None:
        status, detail = _explain_missing_value(member, info, matches_by_member)
    else:
        status, detail = Status.OK, ""
    disagreements = [j.disagreement for j in judgments if j.disagreement is not None]
    return Reward(
        value,
        status,
        **{field.name: getattr(statistics, field.name).get(member) for field in fields(statistics)},
        reasoning=next((j.reasoning for j in judgments if j.scores is not None), ""),
        detail=detail,
        group=info,
        disagreement=math.fsum(disagreements) / len(disagreements) if disagreements else None,
        judgments=len(judgments),
        usage=sum((_split_usage(match) for match in matches), Usage()),
        model=next((j.model for j in judgments if j.model), ""),
    )


def _explain_missing_value(
    member: int, info: GroupInfo, matches_by_member: dict[int, list[Match]]
) -> tuple[Status, str]:
    """Explain why a member has no value.

    Either its own comparisons failed, or the group is too small, or all opponents failed.
    """
    failure = _find_common_failure((member, match) for match in matches_by_member[member])
    if failure is not None:
        return failure
    if info.size == 1:
        return Status.TIMEOUT, "no other completion of its prompt arrived, and the reward needs one"
    failure = _find_common_failure(
        (other, match) for other, matches in matches_by_member.items() if other != member for match in matches
    )
    if failure is None:
        return Status.TIMEOUT, f"only {info.size} completions of its prompt arrived, too few for the rubric"
    if not matches_by_member[member]:
        return failure[0], f"too few completions of its prompt can be judged: {failure[1]}"
    return failure[0], f"no other completion of its prompt has a score: {failure[1]}"


def _find_common_failure(matches: Iterable[tuple[int, Match]]) -> tuple[Status, str] | None:
    """Find the most frequent failure status of members in their matches, and the detail of its first occurrence."""
    failures = [failure for member, match in matches if (failure := match.get_failure(member))]
    if not failures:
        return None
    status = Counter(status for status, _ in failures).most_common(1)[0][0]
    return next(failure for failure in failures if failure[0] == status)


def _split_usage(match: Match) -> Usage:
    """Split the tokens of a comparison evenly among its completions; a baseline gets no share."""
    if match.judgment is None:
        return Usage()
    num_completions = sum(member is not None for member in match.members)
    usage = match.judgment.usage
    return Usage(*(getattr(usage, field.name) // num_completions for field in fields(usage)))


MemberValues = Mapping[int, float]
"""Values of a statistic by member index; members without a value are missing."""


@dataclass(frozen=True)
class MemberStatistics:
    """Statistics of the members of a group; see `flex_judge.reward.types.Reward` for their definitions."""

    score: MemberValues
    expected: MemberValues
    """Only members whose scored comparisons all have expected scores."""
    win_rate: MemberValues
    rank: MemberValues
    margin: MemberValues

    @property
    def best_scores(self) -> MemberValues:
        """Expected scores where available, else written scores."""
        return {**self.score, **self.expected}


def compute_statistics(matches: Sequence[Match], method: str) -> MemberStatistics:
    """Compute all statistics of a group from its matches.

    - `pointwise`: members are compared by their expected scores (written scores where these are missing).
    - `round_robin` and `listwise`: the outcome of each match counts. Members are ranked by win rate, ties by margin.
    - `circular` and `swiss`: members met different opponents, so the outcomes are fitted by a Bradley-Terry model. The
      win rate is the mean predicted probability to beat each other member. Members are ranked by strength, ties by
      margin. The margin comes from least-squares ratings of the score differences.
    - `knockout`: members are ranked by their exit round. Members eliminated in the same round share a rank.
    - `baseline`: the rank is the win rate, so that it does not depend on the other completions.
    """
    written: dict[int, list[float]] = defaultdict(list)
    expected: dict[int, list[float | None]] = defaultdict(list)
    win_shares: dict[int, list[float]] = defaultdict(list)
    margins: dict[int, list[float]] = defaultdict(list)
    for match in matches:
        for position, member in enumerate(match.members):
            if member is None or not match.has_verdict:
                continue
            if match.judgment is not None and match.judgment.scores is not None:
                written[member].append(match.judgment.scores[position])
                means = match.judgment.expected_scores
                expected[member].append(None if means is None else means[position])
            if len(match.members) > 1:
                win_shares[member].append(_compute_win_share(match, position))
                margins[member].append(match.get_margin(position))
    mean_scores = {member: _compute_mean(values) for member, values in written.items()}
    mean_expected = {
        member: _compute_mean(_drop_missing(values)) for member, values in expected.items() if None not in values
    }
    if method == "pointwise":
        scores = {**mean_scores, **mean_expected}
        ranks = rank_members(scores)
        # With all members compared by score, the win rate equals the rank: a tie counts half in both.
        return MemberStatistics(mean_scores, mean_expected, ranks, ranks, _compute_margins(scores))
    if method in ("circular", "swiss"):
        strengths, ratings = fit_matches(matches)
        # Margins that differ by rounding errors only are equal.
        fitted_margins = _compute_margins(ratings)
        ranks = rank_members({m: (strength, round(fitted_margins[m], 9)) for m, strength in strengths.items()})
        return MemberStatistics(mean_scores, mean_expected, predict_win_rates(strengths), ranks, fitted_margins)
    win_rates = {member: _compute_mean(values) for member, values in win_shares.items()}
    mean_margins = {member: _compute_mean(values) for member, values in margins.items()}
    if method == "baseline":
        return MemberStatistics(mean_scores, mean_expected, win_rates, win_rates, mean_margins)
    sort_keys: Mapping[int, Any]
    if method == "knockout":
        sort_keys = find_exit_rounds(win_rates, matches)
    else:
        sort_keys = {member: (rate, mean_margins[member]) for member, rate in win_rates.items()}
    return MemberStatistics(mean_scores, mean_expected, win_rates, rank_members(sort_keys), mean_margins)


def rank_members(sort_keys: Mapping[int, Any]) -> MemberValues:
    """Rank members by a sort key: 1 for the highest, 0 for the lowest, the mean rank for ties.

    A single member has no rank.
    """
    last = len(sort_keys) - 1
    if last < 1:
        return {}
    ordered = sorted(sort_keys.values())
    return {
        member: (bisect_left(ordered, key) + bisect_right(ordered, key) - 1) / 2 / last
        for member, key in sort_keys.items()
    }


def normalize_values(values: MemberValues, normalization: str) -> MemberValues:
    """Center values at their mean; with `standardize`, also divide by the standard deviation (n - 1, as in TRL).

    If the values differ by rounding errors only, or there is just one, all become 0: that is the value minus its mean,
    not a placeholder for a missing reward. Members without a value stay without one.
    """
    if normalization == "none" or not values:
        return values
    # Dividing a spread of rounding errors by its own deviation would turn noise into rewards of +-1.
    low, high = min(values.values()), max(values.values())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return dict.fromkeys(values, 0.0)
    mean = _compute_mean(list(values.values()))
    centered = {member: value - mean for member, value in values.items()}
    if normalization == "center":
        return centered
    deviation = math.sqrt(math.fsum(value**2 for value in centered.values()) / (len(centered) - 1))
    return {member: value / deviation for member, value in centered.items()}


def _compute_win_share(match: Match, position: int) -> float:
    """Compute the mean outcome of a position against all other positions of its match."""
    outcomes = [match.get_outcome(position, other) for other in range(len(match.members)) if other != position]
    return _compute_mean(_drop_missing(outcomes))


def _compute_margins(scores: MemberValues) -> MemberValues:
    """Compute each member's score minus the mean score of the others; a single member has no margin."""
    num_others, total = len(scores) - 1, math.fsum(scores.values())
    if num_others < 1:
        return {}
    return {member: (score * (num_others + 1) - total) / num_others for member, score in scores.items()}


def _drop_missing(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _compute_mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # exact summation, so the result does not depend on the order
