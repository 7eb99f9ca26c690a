"""From judgments to rewards. A completion without a verdict has no reward: None, never a number.

Pure: no engine, no clock.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from functools import lru_cache

from flex_judge.judges import Judgment, Status, Usage
from flex_judge.judges.rubrics import Rubric, load_rubric
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.statistics import MemberStatistics, Numbers, compute_statistics, normalised
from flex_judge.reward.types import GroupNote, Reward, RewardSpec


@lru_cache(maxsize=64)
def rubric_named(name: str) -> Rubric:
    """The rubric of that name, read once: it is needed for every group. Raises UsageError if there is none."""
    return load_rubric(name)


def written_score(judgment: Judgment) -> float | None:
    """The score the judge wrote for the first response, on its rubric's scale."""
    return None if judgment.scores is None else judgment.scores[0]


def expected_score(judgment: Judgment) -> float | None:
    """The mean of the scale under the judge's distribution where it wrote the score; finer than the score itself."""
    return None if judgment.expected_scores is None else judgment.expected_scores[0]


def scaled(score: float, rubric: Rubric | str) -> float:
    """A score as a share of its rubric's scale: 0 for the worst, 1 for the best."""
    scale = (rubric_named(rubric) if isinstance(rubric, str) else rubric).scale
    return (score - scale.low) / (scale.high - scale.low)


def rewards_of(
    matches: Sequence[Match], spec: RewardSpec, note: GroupNote, wanted: Collection[int] | None = None
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
    values = normalised(_asked_for(statistics, spec.reward), spec.normalize)
    own: dict[int, list[Match]] = {member: [] for member in members}
    for match in matches:
        for member in match.members:
            if member is not None:
                own[member].append(match)
    return [
        _reward(member, own[member], statistics, values, note, own)
        for member in (members if wanted is None else sorted(wanted))
    ]


def _asked_for(statistics: MemberStatistics, reward: str) -> Numbers:
    """The figure that is the reward. One expected score that the engine gives no distribution for would cost the
    completion its reward; its written score is on the same scale."""
    if reward == "expected":
        return statistics.best_known
    found: Numbers = getattr(statistics, reward)
    return found


def _reward(
    member: int,
    matches: Sequence[Match],
    statistics: MemberStatistics,
    values: Numbers,
    note: GroupNote,
    everyone: dict[int, list[Match]],
) -> Reward:
    judgments = [match.judgment for match in matches if match.judgment is not None]
    value = values.get(member)
    status, detail = (Status.OK, "") if value is not None else _why(member, note, everyone)
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
        usage=sum((_usage_share(match) for match in matches), Usage()),
        model=next((j.model for j in judgments if j.model), ""),
    )


def _why(member: int, note: GroupNote, everyone: dict[int, list[Match]]) -> tuple[Status, str]:
    """Why a member has no value: its own comparisons failed, there was nobody to hold it against, or all of those
    failed."""
    own = _failure(everyone[member])
    if own is not None:
        return own
    if note.size == 1:
        return Status.TIMEOUT, "no other completion of its prompt arrived, and the reward needs one"
    if not everyone[member]:
        return Status.TIMEOUT, f"only {note.size} completions of its prompt arrived, too few for the rubric"
    others = _failure(match for other, matches in everyone.items() if other != member for match in matches)
    assert others is not None, "it has a verdict and so has another: then it has every figure"
    return others[0], f"no other completion of its prompt has a score: {others[1]}"


def _failure(matches: Iterable[Match]) -> tuple[Status, str] | None:
    """The commonest status of failed comparisons, and what was wrong in the first of them."""
    failed = [match.judgment for match in matches if match.judgment is not None and match.judgment.scores is None]
    if not failed:
        return None
    status = Counter(judgment.status for judgment in failed).most_common(1)[0][0]
    first = next(judgment for judgment in failed if judgment.status == status)
    return status, next((vote.detail for vote in first.votes if vote.detail), "")


def _usage_share(match: Match) -> Usage:
    """The tokens of a comparison, divided evenly among the completions in it; a baseline pays nothing."""
    if match.judgment is None:
        return Usage()
    sharing = sum(member is not None for member in match.members)
    usage = match.judgment.usage
    return Usage(*(getattr(usage, field.name) // sharing for field in fields(usage)))
