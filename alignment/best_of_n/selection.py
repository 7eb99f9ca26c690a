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

from flex_judge.alignment.best_of_n.halving import PRIOR_NOISE, Rules, halve
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Usage
from flex_judge.judges.rubrics import cached_rubric
from flex_judge.judges.types import Comparison, Content, Message
from flex_judge.judges.validation.classes import Confidence, Fraction, PositiveInt, settings_class
from flex_judge.reward.groups.match import Match, knock_out
from flex_judge.reward.groups.methods import Ask, Contest, judge_group
from flex_judge.reward.groups.rewards import expected_score, placed, rewards_of, written_score
from flex_judge.reward.types import LARGEST_ROUND_ROBIN, TOO_MANY_PAIRS, GroupNote, Reward, RewardSpec, Sample

Method = Literal["pointwise", "listwise", "round_robin", "knockout", "halving"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How answers are judged: each alone, all in one comparison, every pair, a knock-out, or each alone again and again for
as long as the top is undecided."""
ALONE = ("pointwise", "halving")
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
    def expected(self) -> tuple[float | None, ...]:
        """The expected score of each response likewise."""
        return tuple(candidate.expected for candidate in self.candidates)

    @property
    def win_rates(self) -> tuple[float | None, ...]:
        """Of each response, the share of the others that it beat, a tie counting half."""
        return tuple(candidate.win_rate for candidate in self.candidates)


async def select(
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
    check(spec, len(samples))
    digests = [sample.comparison(spec.rubric).digest for sample in samples]
    # Whose verdict each response has: where it is judged alone, that of the first one that is the same.
    source = [digests.index(d) for d in digests] if spec.method in ALONE else list(range(len(samples)))
    lots = [hashlib.sha256(f"{spec.seed}/{id}/{digest}".encode()).digest() for digest in digests]
    drawn = sorted(set(source), key=lambda i: (lots[i], i))
    name = id or samples[0].comparison(spec.rubric).prompt_digest[:12]
    found = await (_halving if spec.method == "halving" else _compared)(samples, drawn, spec, ask, name)
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


class _Found(NamedTuple):
    """What judging came to; responses go by their numbers."""

    matches: Sequence[Match]
    rewards: Mapping[int, Reward]
    """Of each response that was to be judged."""
    worth: Mapping[int, tuple[float, float]]
    """What those with a verdict are ordered by."""


async def _compared(
    samples: Sequence[Sample], drawn: Sequence[int], spec: SelectionSpec, ask: Ask, name: str
) -> _Found:
    """Judge by a method of `flex_judge.reward.groups`.

    Args:
        drawn: the samples that are to be judged, in the order of the draw.
        name: what the ids of comparisons begin with.
    """
    field = sorted(drawn)

    async def named(comparison: Comparison) -> Judgment:
        # Ids of groups are new each time; a run that is repeated must give the same ones.
        members = (str(field[int(place)]) for place in comparison.id.rpartition("/")[2].split("-"))
        return await ask(replace(comparison, id=f"{name}/{'-'.join(members)}"))

    group = [samples[i] for i in field]
    method = "pointwise" if spec.method == "halving" else spec.method
    how = RewardSpec(spec.rubric, method, "expected" if spec.method in ALONE else "win_rate")
    if spec.method == "knockout":
        contest = Contest(group, how, named, frozenset(range(len(group))), (), name)
        matches = await knock_out([field.index(i) for i in drawn], contest.match)
    else:
        matches = await judge_group(group, how, named)
    rewards = dict(zip(field, rewards_of(matches, how, GroupNote(len(group), None)), strict=True))
    worth = {i: _worth(reward) for i, reward in rewards.items() if reward.value is not None}
    matches = [_among(match, field) for match in matches]
    if spec.method == "knockout" and _is_level(matches[-1]):  # the draw decided the final
        worth |= dict.fromkeys((m for m in matches[-1].members if m is not None), max(worth.values()))
    return _Found(matches, rewards, worth)


async def _halving(samples: Sequence[Sample], drawn: Sequence[int], spec: SelectionSpec, ask: Ask, name: str) -> _Found:
    """Judge by successive halving; as `_compared`."""
    field = sorted(drawn)

    async def vote(k: int, sample_index: int) -> Judgment:
        return await ask(
            replace(
                samples[field[k]].comparison(spec.rubric, id=f"{name}/{field[k]}/{sample_index}"),
                sample_index=sample_index,
            )
        )

    scale = cached_rubric(spec.rubric).scale
    budget = max(len(field), math.floor(spec.budget * spec.votes * len(field)))
    rules = Rules(spec.votes, budget, spec.confidence, PRIOR_NOISE * (scale.high - scale.low))
    race = await halve([field.index(i) for i in drawn], vote, rules)
    alone = rewards_of(race.matches, RewardSpec(spec.rubric), GroupNote(len(field), None))
    # Its own order, as who was given up early can have the higher mean, by few judgments.
    ranks = placed(race.worth)
    rewards = {
        i: replace(r, rank=ranks.get(k), win_rate=ranks.get(k))
        for k, (i, r) in enumerate(zip(field, alone, strict=True))
    }
    worth = {field[k]: (float(rounds), mean) for k, (rounds, mean) in race.worth.items()}
    return _Found([_among(match, field) for match in race.matches], rewards, worth)


def _among(match: Match, field: Sequence[int]) -> Match:
    """The comparison with its members by the numbers of their responses."""
    return replace(match, members=tuple(None if member is None else field[member] for member in match.members))


def _is_level(match: Match) -> bool:
    """Whether a pair is a tie that expected scores do not break either."""
    return match.won(0, 1) == 0.5 and (match.statistics is None or match.statistics[0] == match.statistics[1])


def _worth(reward: Reward) -> tuple[float, float]:
    """What responses are ordered by: their rank, then their expected scores; one alone has no rank."""
    score = reward.score if reward.expected is None else reward.expected
    return 0.5 if reward.rank is None else reward.rank, -math.inf if score is None else score


def check(spec: SelectionSpec, count: int) -> None:
    """Raise UsageError if so many answers cannot be judged so."""
    if count == 1 and spec.method not in ALONE:
        raise UsageError(f"responses: the method {spec.method!r} compares, and there is only 1; use 'pointwise'")
    if spec.method == "round_robin" and count > LARGEST_ROUND_ROBIN:
        raise UsageError(f"responses to one prompt must be {TOO_MANY_PAIRS}, not {count}")
    cached_rubric(spec.rubric).check({"listwise": count, "round_robin": 2, "knockout": 2}.get(spec.method, 1))


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates of one prompt."""

    best: int | None
    """Index of the winner; None if no candidate has a score."""
    tied: int
    """How many candidates shared the top and were drawn from; 1 for a clear winner, 0 if there is none."""


def best_of_n(judgments: Sequence[Judgment], seed: int | str = 0) -> Choice:
    """Choose by written score, then by expected score, then at random.

    Args:
        judgments: one single-response judgment per candidate, in the candidates' order.
        seed: decides between candidates that are equal in both; the same seed draws the same winner.
    """
    ranked = {i: rank(j) for i, j in enumerate(judgments) if written_score(j) is not None}
    if not ranked:
        return Choice(None, 0)
    top = max(ranked.values())
    tied = [i for i, r in ranked.items() if r == top]
    return Choice(random.Random(f"best-of-n-{seed}").choice(tied), len(tied))


def rank(judgment: Judgment) -> tuple[float, float]:
    """What scored candidates are ordered by: the written score, and within it the expected score."""
    score, expected = written_score(judgment), expected_score(judgment)
    assert score is not None, "an unscored candidate has no rank"
    return score, score if expected is None else expected
