"""Methods of judging the completions of one prompt: alone, against each other, or against a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from uuid import uuid4

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.types import Comparison, Response
from flex_judge.reward.groups.match import Match, play_knockout, play_latecomer
from flex_judge.reward.groups.pairing import Roster, make_plan
from flex_judge.reward.groups.schedule import MatchSchedule
from flex_judge.reward.types import MAX_ROUND_ROBIN_SIZE, ROUND_ROBIN_LIMIT, RewardSpec, Sample

JudgeFunction = Callable[[Comparison], Awaitable[Judgment]]
"""Judge one comparison; `FlexJudge.ajudge` and `JudgeService.judge` are examples.

A failed judgment is returned with its status, not raised; so is a comparison that cannot be judged. UsageError and
RenderError are raised for invalid settings.
"""


@dataclass(frozen=True)
class GroupContext:
    """Input of a method: the group's samples, settings, and earlier matches."""

    samples: Sequence[Sample]
    """The members, all with the same prompt."""
    spec: RewardSpec
    judge: JudgeFunction
    targets: frozenset[int]
    """Indices of the members to judge; the other members only serve as opponents."""
    earlier: tuple[Match, ...]
    """Matches of the group so far."""
    name: str
    """Unique prefix of the ids of the comparisons."""
    problems: dict[int, str] = field(default_factory=dict)
    """Index of each member that cannot be judged -> reason; extended by matches that find one."""
    seed: str = ""
    """Seed of the order of members; the order without a seed depends on the texts only."""

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of all members that can be judged, as far as known, ordered by a hash of prompt and response.

        The order is effectively random, but does not depend on the order of arrival.
        """
        return tuple(member for member in self._shuffled_order if member not in self.problems)

    @cached_property
    def _shuffled_order(self) -> tuple[int, ...]:
        digests = list(map(self.compute_digest, range(len(self.samples))))
        return tuple(sorted(range(len(digests)), key=lambda i: (digests[i], i)))

    def compute_digest(self, member: int) -> str:
        """Hash the prompt and the response of a member, and the seed if there is one."""
        digest = self.samples[member].to_comparison(self.spec.rubric).digest
        return hashlib.sha256(f"{self.seed}/{digest}".encode()).hexdigest() if self.seed else digest

    @property
    def new_members(self) -> tuple[int, ...]:
        """Indices of the members to judge that can be judged, in order."""
        return tuple(sorted(self.targets.difference(self.problems)))

    async def play_match(self, *members: int) -> Match:
        """Compare members; their order is the order in the judge's prompt.

        Identical responses are a tie; the judge is called for them only if their score is needed. If members cannot be
        judged, the match only has these members, with their problems.
        """
        if not self.problems.keys().isdisjoint(members):
            return self.void_invalid(Match(members, None))
        first, *opponents = (self.samples[member] for member in members)
        match = await self._compare_responses(members, first, [opponent.response for opponent in opponents])
        problems = {} if match.judgment is None else match.judgment.response_problems
        if not problems:
            return match
        self.problems.update((members[position], problem) for position, problem in problems.items())
        return self.void_invalid(match)

    def void_invalid(self, match: Match) -> Match:
        """Reduce a match to its members that cannot be judged, if it has any."""
        known = tuple(m for m in match.members if m is not None and m in self.problems)
        if not known or match.problems:
            return match
        return replace(match, members=known, problems=tuple(self.problems[m] for m in known), identical=False)

    async def play_baseline(self, member: int) -> Match:
        """Compare a member (first position) with its own baseline (second position)."""
        sample = self.samples[member]
        assert sample.baseline is not None, "check_samples rejects samples without a baseline"
        match = await self._compare_responses((member, None), sample, [sample.baseline])
        problems = {} if match.judgment is None else match.judgment.response_problems
        if not problems:
            return match
        problem = problems.get(0) or f"baseline: {problems[1]}"
        return replace(match, members=(member,), problems=(problem,), identical=False)

    async def _compare_responses(
        self, members: tuple[int | None, ...], first: Sample, opponents: list[Response]
    ) -> Match:
        identical = bool(opponents) and all(opponent == first.response for opponent in opponents)
        if identical and not self._needs_tie_scores:
            return Match(members, None, identical=True)
        name = f"{self.name}/{'-'.join('baseline' if m is None else str(m) for m in members)}"
        comparison = first.to_comparison(self.spec.rubric, *opponents, id=name)
        return Match(members, await self.judge(comparison), identical=identical)

    @cached_property
    def _needs_tie_scores(self) -> bool:
        """Whether identical responses must be judged.

        They must if the reward is a score and perhaps no other comparison gives them one.
        """
        if self.spec.reward not in ("score", "expected"):
            return False
        responses = [sample.response for sample in self.samples if not sample.problem]
        is_uniform = all(response == responses[0] for response in responses)
        return is_uniform or self.spec.method in ("baseline", "knockout", "circular", "swiss")


async def judge_pointwise(context: GroupContext) -> list[Match]:
    """Judge each member alone: n comparisons."""
    return [*context.earlier, *await gather_all(context.play_match(m) for m in context.new_members)]


async def judge_against_baseline(context: GroupContext) -> list[Match]:
    """Compare each member with its own baseline: n comparisons.

    The baseline always has the second position, so that position bias affects all members equally.
    """
    return [*context.earlier, *await gather_all(context.play_baseline(m) for m in context.new_members)]


async def judge_by_plan(context: GroupContext) -> list[Match]:
    """Compare pairs of members as `flex_judge.reward.groups.pairing` plans them.

    - `round_robin`: every pair once, n (n - 1) / 2 comparisons. A win rate is then a Copeland score divided by n - 1.
    - `circular`: each member with its two neighbors in a shuffled circle, n comparisons.
    - `swiss`: in rounds, members with a similar standing, about n log2(n) / 2 comparisons.

    For latecomers, only pairs that include one.
    """
    present = [member for member in context.order if member not in context.targets]
    late = context.targets if present else frozenset()
    roster = Roster(context.problems, late)
    roster.add_judged_members({member: context.compute_digest(member) for member in present}, context.earlier)
    schedule = MatchSchedule(make_plan(context.spec.method), roster, context.play_match)
    schedule.add_members({member: context.compute_digest(member) for member in context.new_members})
    return [*context.earlier, *await schedule.play_to_end()]


async def judge_knockout(context: GroupContext) -> list[Match]:
    """Play a single-elimination tournament: n - 1 comparisons (arXiv 2501.13007), see `flex_judge.reward.groups.match`.

    A group of one has no match. Latecomers do not play each other: each climbs the rounds of the finished tournament
    until it loses. The opponent of a member that cannot be judged advances without a comparison.
    """
    matches = list(context.earlier)
    bracket = [member for member in context.order if member not in context.targets]
    if not bracket:
        return matches + (await play_knockout(context.order, context.play_match) if context.order else [])
    for played in await gather_all(
        play_latecomer(m, bracket, context.earlier, context.play_match) for m in context.new_members
    ):
        matches += played
    return matches


async def judge_listwise(context: GroupContext) -> list[Match]:
    """Judge all members in one comparison, in shuffled order.

    Latecomers cause a new comparison of all members, which replaces the earlier one. If members cannot be judged, the
    others are compared again without them. A group that is smaller than the rubric requires has no match.
    """
    fewest, _ = get_rubric(context.spec.rubric).responses
    matches = [match for match in context.earlier if match.problems]
    while len(context.order) >= fewest:
        matches.append(await context.play_match(*context.order))
        if not matches[-1].problems:
            break
    return matches


METHOD_FUNCTIONS: Mapping[str, Callable[[GroupContext], Awaitable[list[Match]]]] = MappingProxyType(
    {
        "pointwise": judge_pointwise,
        "round_robin": judge_by_plan,
        "circular": judge_by_plan,
        "swiss": judge_by_plan,
        "knockout": judge_knockout,
        "baseline": judge_against_baseline,
        "listwise": judge_listwise,
    }
)
"""Implementation of each method in `flex_judge.reward.types.METHODS`. Returns all matches that count for rewards."""


async def judge_group(
    samples: Sequence[Sample],
    spec: RewardSpec,
    judge: JudgeFunction,
    targets: Collection[int] | None = None,
    earlier: Sequence[Match] = (),
    seed: str = "",
) -> list[Match]:
    """Judge the completions of one prompt by `spec.method`, with as many concurrent comparisons as the method allows.

    Members that cannot be judged (`Sample.problem`, or the status `invalid_input` because of their response) take no
    part in the matches of the others; each has a match with its problem.

    Args:
        samples: the members of the group; they must have the same prompt, which is not checked.
        spec: reward settings.
        judge: function that judges one comparison.
        targets: indices of the members to judge; the others only serve as opponents. None judges all.
        earlier: matches of the group so far.
        seed: seed of the order of members, and so of who meets whom; the default order depends on the texts only.

    Returns:
        The matches that count for the rewards: earlier ones that are still valid, and new ones.

    Raises:
        UsageError: a sample lacks its baseline, the group is too large for a round robin, or the rubric does not fit
            the number of responses that the method compares.
        JudgeError: the first error of `judge`; the other comparisons are cancelled.
    """
    check_samples(samples, spec)
    if spec.method == "round_robin" and len(samples) > MAX_ROUND_ROBIN_SIZE:
        raise UsageError(f"completions of one prompt: got {len(samples)}, expected {ROUND_ROBIN_LIMIT}")
    if not samples:
        return []
    targets = frozenset(range(len(samples)) if targets is None else targets)
    problems = {i: sample.problem for i, sample in enumerate(samples) if sample.problem}
    failures = [Match((i,), None, problems=(problem,)) for i, problem in problems.items() if i in targets]
    known = [*earlier, *failures]
    for match in known:
        problems.update((m, p) for m, p in zip(match.members, match.problems, strict=False) if m is not None)
    context = GroupContext(
        samples=samples,
        spec=spec,
        judge=judge,
        targets=targets,
        earlier=tuple(known),
        problems=problems,
        seed=seed,
        name=name_comparisons(spec, samples[0]),
    )
    matches = await METHOD_FUNCTIONS[spec.method](context)
    # A tie of identical responses has no verdict if a comparison with a third one shows that they cannot be judged.
    return [context.void_invalid(match) for match in matches]


def name_comparisons(spec: RewardSpec, sample: Sample) -> str:
    """Make a unique prefix for the ids of the comparisons of a sample's group."""
    # The random part keeps ids unique if the same group is judged again, for example in the next epoch.
    return f"{spec.compute_group_id(sample)[:8]}-{uuid4().hex[:8]}"


def check_samples(samples: Sequence[Sample], spec: RewardSpec) -> None:
    """Raise UsageError if the settings do not allow these samples, or not this group size."""
    if spec.method == "baseline":
        for i, sample in enumerate(samples):
            if sample.baseline is None and not sample.problem:
                raise UsageError(f"samples[{i}].baseline: missing, and the method 'baseline' compares with it")
    if spec.method == "listwise" and spec.group_size is not None:
        get_rubric(spec.rubric).check_response_count(spec.group_size)
