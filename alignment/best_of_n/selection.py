"""Best of N: a prompt's answers are judged, and the best of them is chosen.

How answers are judged against each other is in `flex_judge.reward.groups`; successive halving is in
`flex_judge.alignment.best_of_n.halving`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from flex_judge.alignment.best_of_n.halving import PRIOR_NOISE, HalvingRules, run_halving
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Usage
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.types import Comparison, Content, Message
from flex_judge.judges.validation.classes import Confidence, Fraction, PositiveInt, settings_class
from flex_judge.reward.groups.match import Match, play_knockout
from flex_judge.reward.groups.methods import Ask, GroupContext, judge_group
from flex_judge.reward.groups.rewards import build_rewards, get_expected_score, get_written_score, rank_members
from flex_judge.reward.types import MAX_ROUND_ROBIN_SIZE, ROUND_ROBIN_LIMIT, GroupInfo, Reward, RewardSpec, Sample

Method = Literal["pointwise", "listwise", "round_robin", "knockout", "halving"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How answers are judged: each alone, all in one comparison, every pair, a knock-out, or each alone again and again for
as long as the top is undecided."""
POINTWISE_METHODS = ("pointwise", "halving")
"""The methods that judge each answer by itself."""


@settings_class
class SelectionSpec:
    """How the best answer is chosen."""

    method: Method = "pointwise"
    """How the best answer is found; halving judges answers again until the best is clear."""
    rubric: str = "general"
    """Name of the rubric, see `flex_judge.judges.rubrics`. It must be made for as many responses as are judged
    together."""
    seed: int = 0
    """Decides between answers that are level, and who meets whom in a knock-out."""
    votes: PositiveInt = 8
    """Of `halving`: judgments of one answer at most. Giving all to every answer is the exhaustive way. They differ only
    where the judge's temperature is above 0; a greedy one is asked once."""
    budget: Fraction = 0.5
    """Of `halving`: the share of the exhaustive way's judgments that it may ask for; but every answer gets one."""
    confidence: Confidence = 0.98
    """Of `halving`: how sure it must be that an answer stays behind before it is given up for that; at 1.0 about half
    of the answers are given up in each round, and none for any other reason."""


@dataclass(frozen=True)
class Selection:
    """What was chosen, and why."""

    best: int | None
    """Index of the chosen response; None where none has a verdict."""
    tied: int
    """How many different responses shared the top and were drawn from; 1 for a clear winner, 0 if there is none."""
    ranking: tuple[int, ...]
    """The responses with a verdict, best first, as indexes; those that are level in the order that was drawn."""
    candidates: tuple[Reward, ...]
    """What is known of each response: its score, expected score, win rate over the others, status, reasoning. Without a
    verdict all numbers are None. Of responses that are the same and were judged once, the first one has the usage."""
    judgments: tuple[Judgment, ...]
    """All that the judge said. Their ids begin with the id that was given."""
    judged: tuple[tuple[int, ...], ...]
    """Of each judgment, the responses that it is about, in the order in which they stood in it."""

    @property
    def usage(self) -> Usage:
        """Tokens of all judgments; what was judged once counts once."""
        return sum((judgment.usage for judgment in self.judgments), Usage())

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The written score of each response, the mean over its judgments."""
        return tuple(candidate.score for candidate in self.candidates)

    @property
    def expected_scores(self) -> tuple[float | None, ...]:
        """The expected score of each response likewise."""
        return tuple(candidate.expected for candidate in self.candidates)

    @property
    def win_rates(self) -> tuple[float | None, ...]:
        """Of each response, the share of the others that it beat, a tie counting half."""
        return tuple(candidate.win_rate for candidate in self.candidates)


async def select_best(
    prompt: Sequence[Message], responses: Sequence[Content], spec: SelectionSpec, ask: Ask, id: str = ""
) -> Selection:
    """Have the responses to a prompt judged, and choose the best of them.

    Where each is judged alone, the same response is judged once and what is said of it is said of all its copies.
    Responses that are level by rank, and by expected score, are drawn from by a hash of seed, id and response: the same
    one is drawn in every run, wherever it stands.

    Args:
        prompt: the conversation that was answered.
        responses: the answers, in any order; it does not matter to what is chosen, but for what a judge makes of it.
        ask: the judge. `halving` asks about the same response again with another `Comparison.sample_index`.
        id: identity of the prompt within its run.

    Raises:
        UsageError: the rubric is not made for what the method compares, they are too many for a round robin, or there
            is but one for a method that compares.
        JudgeError: whatever else `ask` raises first; the rest of the prompt's work is then cancelled.
    """
    samples = [Sample(tuple(prompt), response) for response in responses]
    if not samples:
        return Selection(None, 0, (), (), (), ())
    check_selection(spec, len(samples))
    digests = [sample.to_comparison(spec.rubric).digest for sample in samples]
    # Whose verdict each response has: where it is judged alone, that of the first one that is the same.
    source = [digests.index(d) for d in digests] if spec.method in POINTWISE_METHODS else list(range(len(samples)))
    lots = [hashlib.sha256(f"{spec.seed}/{id}/{digest}".encode()).digest() for digest in digests]
    drawn = sorted(set(source), key=lambda i: (lots[i], i))
    name = id or samples[0].to_comparison(spec.rubric).prompt_digest[:12]
    found = await (_judge_by_halving if spec.method == "halving" else _judge_by_comparison)(
        samples, drawn, spec, ask, name
    )
    worth = {i: found.worth[s] for i, s in enumerate(source) if s in found.worth}
    ranking = sorted(sorted(worth, key=lambda i: (lots[i], i)), key=lambda i: worth[i], reverse=True)
    told = [(match.judgment, match.members) for match in found.matches if match.judgment is not None]
    return Selection(
        ranking[0] if ranking else None,
        len({digests[i] for i in ranking if worth[i] == worth[ranking[0]]}),
        tuple(ranking),
        tuple(found.rewards[s] if s == i else replace(found.rewards[s], usage=Usage()) for i, s in enumerate(source)),
        tuple(judgment for judgment, _ in told),
        tuple(tuple(member for member in members if member is not None) for _, members in told),
    )


class _JudgedGroup(NamedTuple):
    """What judging came to; responses go by their numbers."""

    matches: Sequence[Match]
    rewards: Mapping[int, Reward]
    """Of each response that was to be judged."""
    worth: Mapping[int, tuple[float, float]]
    """What those with a verdict are ordered by."""


async def _judge_by_comparison(
    samples: Sequence[Sample], drawn: Sequence[int], spec: SelectionSpec, ask: Ask, name: str
) -> _JudgedGroup:
    """Judge by a method of `flex_judge.reward.groups`.

    Args:
        drawn: the samples that are to be judged, in the order of the draw.
        name: what the ids of comparisons begin with.
    """
    field = sorted(drawn)

    async def ask_with_stable_id(comparison: Comparison) -> Judgment:
        # Ids of groups are new each time; a run that is repeated must give the same ones.
        members = (str(field[int(place)]) for place in comparison.id.rpartition("/")[2].split("-"))
        return await ask(replace(comparison, id=f"{name}/{'-'.join(members)}"))

    group = [samples[i] for i in field]
    method = "pointwise" if spec.method == "halving" else spec.method
    how = RewardSpec(spec.rubric, method, "expected" if spec.method in POINTWISE_METHODS else "win_rate")
    if spec.method == "knockout":
        contest = GroupContext(group, how, ask_with_stable_id, frozenset(range(len(group))), (), name)
        matches = await play_knockout([field.index(i) for i in drawn], contest.play_match)
    else:
        matches = await judge_group(group, how, ask_with_stable_id)
    rewards = dict(zip(field, build_rewards(matches, how, GroupInfo(len(group), None)), strict=True))
    worth = {i: _reward_sort_key(reward) for i, reward in rewards.items() if reward.value is not None}
    matches = [_renumber_members(match, field) for match in matches]
    if spec.method == "knockout" and _is_unbroken_tie(matches[-1]):  # the draw decided the final
        worth |= dict.fromkeys((m for m in matches[-1].members if m is not None), max(worth.values()))
    return _JudgedGroup(matches, rewards, worth)


async def _judge_by_halving(
    samples: Sequence[Sample], drawn: Sequence[int], spec: SelectionSpec, ask: Ask, name: str
) -> _JudgedGroup:
    """Judge by successive halving; as `_compared`."""
    field = sorted(drawn)

    async def judge_candidate(k: int, sample_index: int) -> Judgment:
        return await ask(
            replace(
                samples[field[k]].to_comparison(spec.rubric, id=f"{name}/{field[k]}/{sample_index}"),
                sample_index=sample_index,
            )
        )

    scale = get_rubric(spec.rubric).scale
    budget = max(len(field), math.floor(spec.budget * spec.votes * len(field)))
    rules = HalvingRules(spec.votes, budget, spec.confidence, PRIOR_NOISE * (scale.high - scale.low))
    race = await run_halving([field.index(i) for i in drawn], judge_candidate, rules)
    alone = build_rewards(race.matches, RewardSpec(spec.rubric), GroupInfo(len(field), None))
    # Its own order, as who was given up early can have the higher mean, by few judgments.
    ranks = rank_members(race.worth)
    rewards = {
        i: replace(r, rank=ranks.get(k), win_rate=ranks.get(k))
        for k, (i, r) in enumerate(zip(field, alone, strict=True))
    }
    worth = {field[k]: (float(rounds), mean) for k, (rounds, mean) in race.worth.items()}
    return _JudgedGroup([_renumber_members(match, field) for match in race.matches], rewards, worth)


def _renumber_members(match: Match, field: Sequence[int]) -> Match:
    """The comparison with its members by the numbers of their responses."""
    return replace(match, members=tuple(None if member is None else field[member] for member in match.members))


def _is_unbroken_tie(match: Match) -> bool:
    """Whether a pair is a tie that expected scores do not break either."""
    return match.get_outcome(0, 1) == 0.5 and (
        match.best_scores is None or match.best_scores[0] == match.best_scores[1]
    )


def _reward_sort_key(reward: Reward) -> tuple[float, float]:
    """What responses are ordered by: their rank, then their expected scores; one alone has no rank."""
    score = reward.score if reward.expected is None else reward.expected
    return 0.5 if reward.rank is None else reward.rank, -math.inf if score is None else score


def check_selection(spec: SelectionSpec, count: int) -> None:
    """Raise UsageError if so many answers cannot be judged so."""
    if count == 1 and spec.method not in POINTWISE_METHODS:
        raise UsageError(f"responses: the method {spec.method!r} compares, and there is only 1; use 'pointwise'")
    if spec.method == "round_robin" and count > MAX_ROUND_ROBIN_SIZE:
        raise UsageError(f"responses to one prompt must be {ROUND_ROBIN_LIMIT}, not {count}")
    get_rubric(spec.rubric).check_response_count(
        {"listwise": count, "round_robin": 2, "knockout": 2}.get(spec.method, 1)
    )


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates of one prompt."""

    best: int | None
    """Index of the winner; None if no candidate has a score."""
    tied: int
    """How many candidates shared the top and were drawn from; 1 for a clear winner, 0 if there is none."""


def choose_best(judgments: Sequence[Judgment], seed: int | str = 0) -> Choice:
    """Choose by written score, then by expected score, then at random.

    Args:
        judgments: one single-response judgment per candidate, in the candidates' order.
        seed: decides between candidates that are equal in both; the same seed draws the same winner.
    """
    ranked = {i: judgment_sort_key(j) for i, j in enumerate(judgments) if get_written_score(j) is not None}
    if not ranked:
        return Choice(None, 0)
    top = max(ranked.values())
    tied = [i for i, r in ranked.items() if r == top]
    return Choice(random.Random(f"best-of-n-{seed}").choice(tied), len(tied))


def judgment_sort_key(judgment: Judgment) -> tuple[float, float]:
    """What scored candidates are ordered by: the written score, and within it the expected score."""
    score, expected = get_written_score(judgment), get_expected_score(judgment)
    assert score is not None, "an unscored candidate has no rank"
    return score, score if expected is None else expected
