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
from flex_judge.reward.groups.match import Bout
from flex_judge.reward.groups.statistics import Figures, Numbers, figures_of, normalised
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
    bouts: Sequence[Bout], spec: RewardSpec, note: GroupNote, wanted: Collection[int] | None = None
) -> list[Reward]:
    """The rewards of a group's members.

    Args:
        bouts: the comparisons of the group, see `flex_judge.reward.groups.methods.judge_group`. Those of members
        that are
            not wanted count too where members are held against each other: in ranks and in normalisation.
        note: in what company they were judged; its `size` is the number of members.
        wanted: whose rewards, by index; None for all.

    Returns:
        One for each wanted member, in the order of their indexes. Its status is ok exactly where it has a value.
    """
    members = range(note.size)
    figures = figures_of(bouts, spec.method)
    values = normalised(_asked_for(figures, spec.reward), spec.normalize)
    own: dict[int, list[Bout]] = {member: [] for member in members}
    for bout in bouts:
        for member in bout.members:
            if member is not None:
                own[member].append(bout)
    return [
        _reward(member, own[member], figures, values, note, own)
        for member in (members if wanted is None else sorted(wanted))
    ]


def _asked_for(figures: Figures, reward: str) -> Numbers:
    """The figure that is the reward. One expected score that the engine gives no distribution for would cost the
    completion its reward; its written score is on the same scale."""
    if reward == "expected":
        return figures.best_known
    found: Numbers = getattr(figures, reward)
    return found


def _reward(
    member: int,
    bouts: Sequence[Bout],
    figures: Figures,
    values: Numbers,
    note: GroupNote,
    everyone: dict[int, list[Bout]],
) -> Reward:
    judgments = [bout.judgment for bout in bouts if bout.judgment is not None]
    value = values.get(member)
    status, detail = (Status.OK, "") if value is not None else _why(member, note, everyone)
    disagreements = [j.disagreement for j in judgments if j.disagreement is not None]
    return Reward(
        value,
        status,
        **{field.name: getattr(figures, field.name).get(member) for field in fields(figures)},
        reasoning=next((j.reasoning for j in judgments if j.scores is not None), ""),
        detail=detail,
        group=note,
        disagreement=math.fsum(disagreements) / len(disagreements) if disagreements else None,
        judgments=len(judgments),
        usage=sum((_usage_share(bout) for bout in bouts), Usage()),
        model=next((j.model for j in judgments if j.model), ""),
    )


def _why(member: int, note: GroupNote, everyone: dict[int, list[Bout]]) -> tuple[Status, str]:
    """Why a member has no value: its own comparisons failed, there was nobody to hold it against, or all of those
    failed."""
    own = _failure(everyone[member])
    if own is not None:
        return own
    if note.size == 1:
        return Status.TIMEOUT, "no other completion of its prompt arrived, and the reward needs one"
    if not everyone[member]:
        return Status.TIMEOUT, f"only {note.size} completions of its prompt arrived, too few for the rubric"
    others = _failure(bout for other, bouts in everyone.items() if other != member for bout in bouts)
    assert others is not None, "it has a verdict and so has another: then it has every figure"
    return others[0], f"no other completion of its prompt has a score: {others[1]}"


def _failure(bouts: Iterable[Bout]) -> tuple[Status, str] | None:
    """The commonest status of failed comparisons, and what was wrong in the first of them."""
    failed = [bout.judgment for bout in bouts if bout.judgment is not None and bout.judgment.scores is None]
    if not failed:
        return None
    status = Counter(judgment.status for judgment in failed).most_common(1)[0][0]
    first = next(judgment for judgment in failed if judgment.status == status)
    return status, next((vote.detail for vote in first.votes if vote.detail), "")


def _usage_share(bout: Bout) -> Usage:
    """The tokens of a comparison, divided evenly among the completions in it; a baseline pays nothing."""
    if bout.judgment is None:
        return Usage()
    sharing = sum(member is not None for member in bout.members)
    usage = bout.judgment.usage
    return Usage(*(getattr(usage, field.name) // sharing for field in fields(usage)))
