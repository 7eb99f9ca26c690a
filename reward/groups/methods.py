"""The completions of one prompt, judged alone, against each other, or against a given answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from types import MappingProxyType
from uuid import uuid4

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.types import Comparison, Content
from flex_judge.reward.groups.match import Match, play_knockout, play_latecomer
from flex_judge.reward.types import MAX_ROUND_ROBIN_SIZE, ROUND_ROBIN_LIMIT, RewardSpec, Sample

Ask = Callable[[Comparison], Awaitable[Judgment]]
"""Have a comparison judged. A failure is a judgment with a status; a comparison that cannot be judged as it is raises
UsageError, MediaError or RenderError. `FlexJudge.ajudge` is one, and so is a service."""


@dataclass(frozen=True)
class GroupContext:
    """A group about to be judged."""

    samples: Sequence[Sample]
    """Its members, with the same prompt."""
    spec: RewardSpec
    ask: Ask
    wanted: frozenset[int]
    """The members that are to be judged, by index; the others are there as opponents."""
    earlier: tuple[Match, ...]
    """The comparisons of the group that there have been."""
    name: str
    """What the ids of its comparisons begin with; no two contests have the same."""

    @cached_property
    def shuffled_order(self) -> tuple[int, ...]:
        """All members in an order drawn from a hash of prompt and response, so that it is the same in whatever order
        they came.
        """
        digests = [sample.to_comparison(self.spec.rubric).digest for sample in self.samples]
        return tuple(sorted(range(len(digests)), key=lambda i: (digests[i], i)))

    @property
    def has_latecomers(self) -> bool:
        """Whether some of the members are there as opponents alone."""
        return len(self.wanted) < len(self.samples)

    async def play_match(self, *members: int) -> Match:
        """Have members compared, in this order. Equal responses are a tie, and most often not asked about."""
        first, *others = (self.samples[member] for member in members)
        return await self._compare_responses(members, first, [other.response for other in others])

    async def play_baseline(self, member: int) -> Match:
        """Have a member compared with the baseline it was given, which stands second."""
        sample = self.samples[member]
        assert sample.baseline is not None, "see check"
        return await self._compare_responses((member, None), sample, [sample.baseline])

    async def _compare_responses(self, members: tuple[int | None, ...], first: Sample, others: list[Content]) -> Match:
        equal = bool(others) and all(other == first.response for other in others)
        if equal and not self._needs_tie_scores:
            return Match(members, None, equal=True)
        name = f"{self.name}/{'-'.join('baseline' if m is None else str(m) for m in members)}"
        return Match(members, await self.ask(first.to_comparison(self.spec.rubric, *others, id=name)), equal=equal)

    @cached_property
    def _needs_tie_scores(self) -> bool:
        """Whether equal responses are judged all the same: a score is the reward, and there may be no other comparison
        that gives them one.
        """
        alike = all(sample.response == self.samples[0].response for sample in self.samples)
        return self.spec.reward in ("score", "expected") and (alike or self.spec.method in ("baseline", "knockout"))


async def judge_pointwise(contest: GroupContext) -> list[Match]:
    """Each member alone: n comparisons."""
    return [*contest.earlier, *await gather_all(contest.play_match(m) for m in sorted(contest.wanted))]


async def judge_against_baseline(contest: GroupContext) -> list[Match]:
    """Each member against its own baseline: n comparisons. The baseline stands second throughout, so that a leaning of
    the judge to one place is the same for all.
    """
    return [*contest.earlier, *await gather_all(contest.play_baseline(m) for m in sorted(contest.wanted))]


async def judge_round_robin(contest: GroupContext) -> list[Match]:
    """Every pair once: n (n - 1) / 2 comparisons; of latecomers, the pairs in which there is one.

    Of members i and j of the draw, the earlier one stands first where i + j is even: each stands first in half of its
    comparisons, or half a comparison more or less. A win rate is then a Copeland score over n - 1.
    """
    pairs = [
        (a, b) if (i + j) % 2 == 0 else (b, a)
        for (i, a), (j, b) in combinations(enumerate(contest.shuffled_order), 2)
        if not contest.wanted.isdisjoint((a, b))
    ]
    return [*contest.earlier, *await gather_all(contest.play_match(*pair) for pair in pairs)]


async def judge_knockout(contest: GroupContext) -> list[Match]:
    """Single elimination: n - 1 comparisons (arXiv 2501.13007), see `flex_judge.reward.groups.match`.

    A group of one has none. Latecomers do not meet each other; each climbs the rounds that there were until it is
    knocked out.
    """
    if not contest.has_latecomers:
        return await play_knockout(contest.shuffled_order, contest.play_match)
    field = [member for member in contest.shuffled_order if member not in contest.wanted]
    climbs = await gather_all(
        play_latecomer(m, field, contest.earlier, contest.play_match) for m in sorted(contest.wanted)
    )
    return [*contest.earlier, *(match for matches in climbs for match in matches)]


async def judge_listwise(contest: GroupContext) -> list[Match]:
    """All members in one comparison, in the order of the draw; of fewer than the rubric is made for, none.

    With latecomers, everyone is judged anew, and what was said earlier no longer counts.
    """
    fewest, _ = get_rubric(contest.spec.rubric).responses
    return [await contest.play_match(*contest.shuffled_order)] if len(contest.samples) >= fewest else []


METHOD_FUNCTIONS: Mapping[str, Callable[[GroupContext], Awaitable[list[Match]]]] = MappingProxyType(
    {
        "pointwise": judge_pointwise,
        "round_robin": judge_round_robin,
        "knockout": judge_knockout,
        "baseline": judge_against_baseline,
        "listwise": judge_listwise,
    }
)
"""How groups are judged, by the names in `flex_judge.reward.types.METHODS`. Each returns the comparisons that count."""


async def judge_group(
    samples: Sequence[Sample],
    spec: RewardSpec,
    ask: Ask,
    wanted: Collection[int] | None = None,
    earlier: Sequence[Match] = (),
) -> list[Match]:
    """Judge the completions of one prompt by `spec.method`, comparisons side by side as far as the method allows.

    Args:
        samples: the members of the group; that they have the same prompt is taken for granted.
        wanted: the members that are to be judged, by index, where the others are there as opponents alone.
        earlier: the comparisons that there have been among the others.

    Returns:
        The comparisons of which the rewards are made: those of the earlier ones that still count, and the new ones.

    Raises:
        UsageError: a sample has no baseline and needs one; they are too many for a round robin; or the
            rubric is not made for what the method compares.
        JudgeError: whatever else `ask` raises first; the rest of the group's work is then cancelled.
    """
    check_samples(samples, spec)
    if spec.method == "round_robin" and len(samples) > MAX_ROUND_ROBIN_SIZE:
        raise UsageError(f"completions of one prompt must be {ROUND_ROBIN_LIMIT}, not {len(samples)}")
    if not samples:
        return []
    name = f"{spec.compute_group_id(samples[0])[:8]}-{uuid4().hex[:8]}"
    everyone = range(len(samples))
    return await METHOD_FUNCTIONS[spec.method](
        GroupContext(samples, spec, ask, frozenset(everyone if wanted is None else wanted), tuple(earlier), name)
    )


def check_samples(samples: Sequence[Sample], spec: RewardSpec) -> None:
    """Raise UsageError if samples cannot be judged so, naming the first that cannot."""
    if spec.method == "baseline":
        for i, sample in enumerate(samples):
            if sample.baseline is None:
                raise UsageError(f"samples[{i}].baseline: missing, and the method 'baseline' compares with it")
    if spec.method == "listwise" and spec.group_size is not None:
        get_rubric(spec.rubric).check_response_count(spec.group_size)
