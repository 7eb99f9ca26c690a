"""From judgments to statistics of each group member, and from these to rewards.

A completion without a verdict has no reward: None, never a number. Pure: no engine, no clock.
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
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec


def get_written_score(judgment: Judgment) -> float | None:
    """The score the judge wrote for the first response, on its rubric's scale."""
    return None if judgment.scores is None else judgment.scores[0]


def get_expected_score(judgment: Judgment) -> float | None:
    """The mean of the scale under the judge's distribution where it wrote the score; finer than the score itself."""
    return None if judgment.expected_scores is None else judgment.expected_scores[0]


def scale_score(score: float, rubric: Rubric | str) -> float:
    """A score as a share of its rubric's scale: 0 for the worst, 1 for the best."""
    scale = (get_rubric(rubric) if isinstance(rubric, str) else rubric).scale
    return (score - scale.low) / (scale.high - scale.low)


def build_rewards(
    matches: Sequence[Match], spec: RewardSpec, note: GroupInfo, wanted: Collection[int] | None = None
) -> list[Reward]:
    """The rewards of a group's members.

    Args:
        matches: the comparisons of the group, see `flex_judge.reward.groups.methods.judge_group`. Those of members
        that are
            not wanted count too where members are held against each other: in ranks and in normalisation.
        note: in what company they were judged; its `size` is the number of members.
        wanted: whose rewards, by index; None for all.

    Returns:
        One for each wanted member, in the order of their indexes. Its status is ok exactly where it has a value.
    """
    members = range(note.size)
    statistics = compute_statistics(matches, spec.method)
    values = normalize_values(_select_statistic(statistics, spec.reward), spec.normalize)
    own: dict[int, list[Match]] = {member: [] for member in members}
    for match in matches:
        for member in match.members:
            if member is not None:
                own[member].append(match)
    return [
        _build_reward(member, own[member], statistics, values, note, own)
        for member in (members if wanted is None else sorted(wanted))
    ]


def _select_statistic(statistics: MemberStatistics, reward: str) -> Numbers:
    """The figure that is the reward. One expected score that the engine gives no distribution for would cost the
    completion its reward; its written score is on the same scale.
    """
    if reward == "expected":
        return statistics.best_scores
    found: Numbers = getattr(statistics, reward)
    return found


def _build_reward(
    member: int,
    matches: Sequence[Match],
    statistics: MemberStatistics,
    values: Numbers,
    note: GroupInfo,
    everyone: dict[int, list[Match]],
) -> Reward:
    judgments = [match.judgment for match in matches if match.judgment is not None]
    value = values.get(member)
    status, detail = (Status.OK, "") if value is not None else _explain_missing_value(member, note, everyone)
    disagreements = [j.disagreement for j in judgments if j.disagreement is not None]
    return Reward(
        value,
        status,
        **{field.name: getattr(statistics, field.name).get(member) for field in fields(statistics)},
        reasoning=next((j.reasoning for j in judgments if j.scores is not None), ""),
        detail=detail,
        group=note,
        disagreement=math.fsum(disagreements) / len(disagreements) if disagreements else None,
        judgments=len(judgments),
        usage=sum((_split_usage(match) for match in matches), Usage()),
        model=next((j.model for j in judgments if j.model), ""),
    )


def _explain_missing_value(member: int, note: GroupInfo, everyone: dict[int, list[Match]]) -> tuple[Status, str]:
    """Why a member has no value: its own comparisons failed, there was nobody to hold it against, or all of those
    failed.
    """
    own = _find_common_failure(everyone[member])
    if own is not None:
        return own
    if note.size == 1:
        return Status.TIMEOUT, "no other completion of its prompt arrived, and the reward needs one"
    if not everyone[member]:
        return Status.TIMEOUT, f"only {note.size} completions of its prompt arrived, too few for the rubric"
    others = _find_common_failure(match for other, matches in everyone.items() if other != member for match in matches)
    assert others is not None, "it has a verdict and so has another: then it has every figure"
    return others[0], f"no other completion of its prompt has a score: {others[1]}"


def _find_common_failure(matches: Iterable[Match]) -> tuple[Status, str] | None:
    """The commonest status of failed comparisons, and what was wrong in the first of them."""
    failed = [match.judgment for match in matches if match.judgment is not None and match.judgment.scores is None]
    if not failed:
        return None
    status = Counter(judgment.status for judgment in failed).most_common(1)[0][0]
    first = next(judgment for judgment in failed if judgment.status == status)
    return status, next((vote.detail for vote in first.votes if vote.detail), "")


def _split_usage(match: Match) -> Usage:
    """The tokens of a comparison, divided evenly among the completions in it; a baseline pays nothing."""
    if match.judgment is None:
        return Usage()
    sharing = sum(member is not None for member in match.members)
    usage = match.judgment.usage
    return Usage(*(getattr(usage, field.name) // sharing for field in fields(usage)))


Numbers = Mapping[int, float]
"""A figure by the index of the member; those that do not have it are not in it."""


@dataclass(frozen=True)
class MemberStatistics:
    """The figures of a group's members, see `flex_judge.reward.types.Reward`."""

    score: Numbers
    expected: Numbers
    """Only of members of whose scored comparisons every one has expected scores."""
    win_rate: Numbers
    rank: Numbers
    margin: Numbers

    @property
    def best_scores(self) -> Numbers:
        """Expected scores, and written ones where there are none."""
        return {**self.score, **self.expected}


def compute_statistics(matches: Sequence[Match], method: str) -> MemberStatistics:
    """The figures that comparisons come to.

    Members that were judged alone are held against each other by their expected scores (written, where there are
    none). Where they were compared, a win is what the comparison says, and ranks go by win rate, among equals by
    margin. Of a knock-out, ranks go by how far a member came: those knocked out in the same round are level, whatever
    decided it. With a baseline, the rank is the win rate, which does not depend on who else was there.
    """
    written: dict[int, list[float]] = defaultdict(list)
    expected: dict[int, list[float | None]] = defaultdict(list)
    won: dict[int, list[float]] = defaultdict(list)
    ahead: dict[int, list[float]] = defaultdict(list)
    for match in matches:
        for place, member in enumerate(match.members):
            if member is None or not match.has_verdict:
                continue
            if match.judgment is not None and match.judgment.scores is not None:
                written[member].append(match.judgment.scores[place])
                means = match.judgment.expected_scores
                expected[member].append(None if means is None else means[place])
            if len(match.members) > 1:
                won[member].append(_compute_win_share(match, place))
                ahead[member].append(_compute_margin(match, place))
    score = {member: _compute_mean(values) for member, values in written.items()}
    finer = {member: _compute_mean(_drop_missing(values)) for member, values in expected.items() if None not in values}
    if method == "pointwise":
        known = {**score, **finer}
        ranks = rank_members(known)
        # The share of the others that one beats, a tie counting half, is its place among them.
        return MemberStatistics(score, finer, ranks, ranks, _compute_margins(known))
    rates = {member: _compute_mean(values) for member, values in won.items()}
    margins = {member: _compute_mean(values) for member, values in ahead.items()}
    if method == "baseline":
        return MemberStatistics(score, finer, rates, rates, margins)
    worth: Mapping[int, Any] = (
        find_exit_rounds(rates, matches) if method == "knockout" else {m: (rates[m], margins[m]) for m in rates}
    )
    return MemberStatistics(score, finer, rates, rank_members(worth), margins)


def rank_members(worth: Mapping[int, Any]) -> Numbers:
    """Places by worth: 1 for the most, 0 for the least, the mean place for those that are level; of one, none."""
    last = len(worth) - 1
    ordered = sorted(worth.values())
    return {m: (bisect_left(ordered, w) + bisect_right(ordered, w) - 1) / 2 / last for m, w in worth.items() if last}


def normalize_values(values: Numbers, how: str) -> Numbers:
    """Values minus their mean, and for `standardize` over their standard deviation (with n - 1, as TRL's is).

    Of values that differ by no more than rounding, and of one alone, every one is 0: that is what is left of it without
    the mean, not a stand-in for a reward that is missing. Those without a value are left out.
    """
    if how == "none" or not values:
        return values
    low, high = min(values.values()), max(values.values())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return dict.fromkeys(values, 0.0)
    mean = _compute_mean(list(values.values()))
    centred = {member: value - mean for member, value in values.items()}
    if how == "center":
        return centred
    deviation = math.sqrt(math.fsum(value**2 for value in centred.values()) / (len(centred) - 1))
    return {member: value / deviation for member, value in centred.items()}


def _compute_win_share(match: Match, place: int) -> float:
    """What a place has won of the others in its comparison, on average."""
    return _compute_mean(
        [
            won
            for other in range(len(match.members))
            if other != place and (won := match.get_outcome(place, other)) is not None
        ]
    )


def _compute_margin(match: Match, place: int) -> float:
    """How far a place is ahead of the mean of the others in its comparison."""
    statistics = match.best_scores
    if match.equal or statistics is None:
        return 0.0
    return statistics[place] - _compute_mean([*statistics[:place], *statistics[place + 1 :]])


def _compute_margins(scores: Numbers) -> Numbers:
    """How far each is ahead of the mean of the others; of one alone, none."""
    others, total = len(scores) - 1, math.fsum(scores.values())
    return {member: (score * (others + 1) - total) / others for member, score in scores.items() if others}


def _drop_missing(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _compute_mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # summed exactly, so that the order does not show
