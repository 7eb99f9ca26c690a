"""Best-of-N selection: judge the answers to a prompt and choose the best one.

`flex_judge.reward.groups` judges answers against each other; `flex_judge.alignment.best_of_n.halving` implements
successive halving.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from flex_judge.alignment.best_of_n.halving import PRIOR_NOISE, HalvingRules, run_halving
from flex_judge.alignment.data.texts import EqualityKey, make_equality_key
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Usage
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.types import Comparison, Message, Response
from flex_judge.judges.validation.classes import Confidence, Fraction, PositiveInt, settings_class
from flex_judge.reward.groups.match import Match, play_knockout
from flex_judge.reward.groups.methods import GroupContext, JudgeFunction, judge_group
from flex_judge.reward.groups.rewards import build_rewards, get_expected_score, get_written_score, rank_members
from flex_judge.reward.types import MAX_ROUND_ROBIN_SIZE, ROUND_ROBIN_LIMIT, GroupInfo, Reward, RewardSpec, Sample

Method = Literal["pointwise", "listwise", "round_robin", "circular", "swiss", "knockout", "halving"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How answers are judged: each alone, all together, every pair, neighbors in a circle, a Swiss or a knock-out
tournament, or successive halving."""
POINTWISE_METHODS = ("pointwise", "halving")
"""Methods that judge each answer by itself."""


@settings_class
class SelectionSpec:
    """Settings of best-of-N selection."""

    method: Method = "pointwise"
    """How the best answer is found; halving judges answers again until the best is clear."""
    rubric: str = "general"
    """Name of the rubric, see `flex_judge.judges.rubrics`. It must fit the number of responses judged together."""
    seed: int = 0
    """Seed of random tie-breaks and of the pairings in a circle, a Swiss tournament or a knock-out."""
    votes: PositiveInt = 8
    """halving: maximum number of judgments per answer. A judge at temperature 0 is asked once."""
    budget: Fraction = 0.5
    """halving: fraction of `votes` x answers to spend; each answer gets one judgment in any case."""
    confidence: Confidence = 0.98
    """halving: required probability that an answer stays behind before it is dropped early. At 1.0, answers are only
    dropped by halving, about half of them each round."""


@dataclass(frozen=True)
class Selection:
    """The chosen answer, with the ranking and the judgments behind it."""

    best: int | None
    """Index of the chosen response; None if no response has a verdict."""
    tied: int
    """Number of distinct responses at the top before the random tie-break: 1 for a clear winner, 0 for none."""
    ranking: tuple[int, ...]
    """Indexes of the responses with a verdict, best first; ties are in random order (seeded)."""
    candidates: tuple[Reward, ...]
    """Score, expected score, win rate, status and reasoning of each response. Numbers are None without a verdict. If
    equal responses were judged once, the one that was judged carries the token usage."""
    judgments: tuple[Judgment, ...]
    """All judgments. Their ids start with the id of the prompt."""
    judged: tuple[tuple[int, ...], ...]
    """For each judgment, the indexes of the responses in it, in the order they were presented."""

    @property
    def usage(self) -> Usage:
        """Token usage of all judgments."""
        return sum((judgment.usage for judgment in self.judgments), Usage())

    @property
    def scores(self) -> tuple[float | None, ...]:
        """Written score of each response: the mean over its judgments."""
        return tuple(candidate.score for candidate in self.candidates)

    @property
    def expected_scores(self) -> tuple[float | None, ...]:
        """Expected score of each response: the mean over its judgments."""
        return tuple(candidate.expected for candidate in self.candidates)

    @property
    def win_rates(self) -> tuple[float | None, ...]:
        """Fraction of the other responses that each response beat; a tie counts half."""
        return tuple(candidate.win_rate for candidate in self.candidates)


async def select_best(
    prompt: Sequence[Message], responses: Sequence[Response], spec: SelectionSpec, ask: JudgeFunction, id: str = ""
) -> Selection:
    """Judge the responses to a prompt and choose the best one.

    Pointwise methods judge responses that a reader cannot tell apart once, and share the judgment. Ties are broken by
    rank, then by expected score, then at random by a hash of seed, id and response, so that the outcome does not depend
    on the order of the responses.

    Args:
        prompt: The conversation that was answered.
        responses: The answers. Their order affects only how the judge sees them, not how ties are broken.
        spec: Settings of the selection.
        ask: The judge. `halving` asks about the same response again with another `Comparison.sample_index`.
        id: Identity of the prompt within its run.

    Raises:
        UsageError: The rubric does not fit the method, there are too many responses for a round robin, or only one for
            a method that compares.
        JudgeError: The first error that `ask` raised; the other requests of the prompt are cancelled.
    """
    samples = [Sample(tuple(prompt), response) for response in responses]
    if not samples:
        return Selection(None, 0, (), (), (), ())
    check_selection(spec, len(samples))
    digests = [sample.to_comparison(spec.rubric).digest for sample in samples]
    keys = [make_equality_key(response) for response in responses]
    source = list(range(len(samples)))
    if spec.method in POINTWISE_METHODS:
        # One of several equal responses is judged, and the others take over its verdict. Which one depends on the
        # digests, not on the order of the responses.
        judged: dict[EqualityKey, int] = {}
        for i in sorted(source, key=lambda i: (digests[i], i)):
            judged.setdefault(keys[i], i)
        source = [judged[key] for key in keys]
    # A hash of the content rather than a random generator: the tie-break is the same wherever a response stands.
    tie_breaks = [hashlib.sha256(f"{spec.seed}/{id}/{digest}".encode()).digest() for digest in digests]
    shuffled = sorted(set(source), key=lambda i: (tie_breaks[i], i))
    # Without an id, the digest of the prompt keeps the comparison ids unique and reproducible.
    name = id or samples[0].to_comparison(spec.rubric).prompt_digest[:12]
    judge = _judge_by_halving if spec.method == "halving" else _judge_by_comparison
    group = await judge(samples, shuffled, spec, ask, name)
    sort_keys = {i: group.sort_keys[s] for i, s in enumerate(source) if s in group.sort_keys}
    # The second sort is stable, so ties keep the random order of the first.
    ranking = sorted(sorted(sort_keys, key=lambda i: (tie_breaks[i], i)), key=lambda i: sort_keys[i], reverse=True)
    # Matches between identical responses are ties without a judgment.
    judged_matches = [(match.judgment, match.members) for match in group.matches if match.judgment is not None]
    return Selection(
        best=ranking[0] if ranking else None,
        tied=len({keys[i] for i in ranking if sort_keys[i] == sort_keys[ranking[0]]}),
        ranking=tuple(ranking),
        candidates=tuple(
            group.rewards[s] if s == i else replace(group.rewards[s], usage=Usage()) for i, s in enumerate(source)
        ),
        judgments=tuple(judgment for judgment, _ in judged_matches),
        judged=tuple(tuple(member for member in members if member is not None) for _, members in judged_matches),
    )


class _JudgedGroup(NamedTuple):
    """Judgments of a group; responses are identified by index."""

    matches: Sequence[Match]
    rewards: Mapping[int, Reward]
    """Reward of each judged response."""
    sort_keys: Mapping[int, tuple[float, float]]
    """Sort key of each response with a verdict; higher is better."""


async def _judge_by_comparison(
    samples: Sequence[Sample], shuffled: Sequence[int], spec: SelectionSpec, ask: JudgeFunction, name: str
) -> _JudgedGroup:
    """Judge by a method of `flex_judge.reward.groups`.

    Args:
        samples: All samples of the prompt.
        shuffled: Indexes of the samples to judge, in random order (seeded).
        spec: Settings of the selection.
        ask: The judge.
        name: Prefix of the comparison ids.
    """
    indexes = sorted(shuffled)

    async def ask_with_stable_id(comparison: Comparison) -> Judgment:
        # Group ids are new in every run; a repeated run must produce the same ids.
        members = (str(indexes[int(place)]) for place in comparison.id.rpartition("/")[2].split("-"))
        return await ask(replace(comparison, id=f"{name}/{'-'.join(members)}"))

    group = [samples[i] for i in indexes]
    method = "pointwise" if spec.method == "halving" else spec.method
    reward_spec = RewardSpec(spec.rubric, method, "expected" if spec.method in POINTWISE_METHODS else "win_rate")
    if spec.method == "knockout":
        context = GroupContext(group, reward_spec, ask_with_stable_id, frozenset(range(len(group))), (), name)
        matches = await play_knockout([indexes.index(i) for i in shuffled], context.play_match)
    else:
        # The seed decides who meets whom in a circle or a Swiss tournament, as it does in a knock-out.
        seed = f"{spec.seed}/{name}" if spec.method in ("circular", "swiss") else ""
        matches = await judge_group(group, reward_spec, ask_with_stable_id, seed=seed)
    group_rewards = build_rewards(matches, reward_spec, GroupInfo(len(group), None))
    rewards = dict(zip(indexes, group_rewards, strict=True))
    sort_keys = {i: _reward_sort_key(reward) for i, reward in rewards.items() if reward.value is not None}
    matches = [_renumber_members(match, indexes) for match in matches]
    if spec.method == "knockout" and _is_unbroken_tie(matches[-1]):
        # The random pairing decided the final, so both finalists share the top.
        finalists = (member for member in matches[-1].members if member is not None)
        sort_keys |= dict.fromkeys(finalists, max(sort_keys.values()))
    return _JudgedGroup(matches, rewards, sort_keys)


async def _judge_by_halving(
    samples: Sequence[Sample], shuffled: Sequence[int], spec: SelectionSpec, ask: JudgeFunction, name: str
) -> _JudgedGroup:
    """Judge by successive halving; see `_judge_by_comparison` for the arguments."""
    indexes = sorted(shuffled)

    async def judge_candidate(candidate: int, sample_index: int) -> Judgment:
        i = indexes[candidate]
        comparison = samples[i].to_comparison(spec.rubric, id=f"{name}/{i}/{sample_index}")
        return await ask(replace(comparison, sample_index=sample_index))

    scale = get_rubric(spec.rubric).scale
    # Each answer gets one judgment, however small the budget.
    budget = max(len(indexes), math.floor(spec.budget * spec.votes * len(indexes)))
    rules = HalvingRules(spec.votes, budget, spec.confidence, PRIOR_NOISE * (scale.high - scale.low))
    result = await run_halving([indexes.index(i) for i in shuffled], judge_candidate, rules)
    pointwise_rewards = build_rewards(result.matches, RewardSpec(spec.rubric), GroupInfo(len(indexes), None))
    # Rank by rounds survived: an answer that was dropped early can have the higher mean of a few lucky judgments.
    ranks = rank_members(result.sort_keys)
    rewards = {
        indexes[k]: replace(reward, rank=ranks.get(k), win_rate=ranks.get(k))
        for k, reward in enumerate(pointwise_rewards)
    }
    sort_keys = {indexes[k]: (float(rounds), mean) for k, (rounds, mean) in result.sort_keys.items()}
    return _JudgedGroup([_renumber_members(match, indexes) for match in result.matches], rewards, sort_keys)


def _renumber_members(match: Match, indexes: Sequence[int]) -> Match:
    """Replace the members' positions in the group by the indexes of their responses."""
    return replace(match, members=tuple(None if member is None else indexes[member] for member in match.members))


def _is_unbroken_tie(match: Match) -> bool:
    """Return whether a pair is a tie that the expected scores do not break."""
    scores = match.best_scores
    return match.get_outcome(0, 1) == 0.5 and (scores is None or scores[0] == scores[1])


def _reward_sort_key(reward: Reward) -> tuple[float, float]:
    """Return the sort key of a response: its rank, then its expected (or written) score."""
    score = reward.best_score
    # A response that was judged alone has no rank.
    return 0.5 if reward.rank is None else reward.rank, -math.inf if score is None else score


def check_selection(spec: SelectionSpec, count: int) -> None:
    """Raise UsageError if `count` answers cannot be judged with these settings."""
    if count == 1 and spec.method not in POINTWISE_METHODS:
        raise UsageError(f"responses: got 1, but the method {spec.method!r} compares responses; use 'pointwise'")
    if spec.method == "round_robin" and count > MAX_ROUND_ROBIN_SIZE:
        raise UsageError(f"responses to one prompt must be {ROUND_ROBIN_LIMIT}, not {count}")
    num_responses = 1 if spec.method in POINTWISE_METHODS else 2
    get_rubric(spec.rubric).check_response_count(count if spec.method == "listwise" else num_responses)


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates of one prompt."""

    best: int | None
    """Index of the winner; None if no candidate has a score."""
    tied: int
    """Number of candidates that shared the top before the random tie-break: 1 for a clear winner, 0 for none."""


def choose_best(judgments: Sequence[Judgment], seed: int | str = 0) -> Choice:
    """Choose by written score, then by expected score, then at random.

    Args:
        judgments: One single-response judgment per candidate, in the candidates' order.
        seed: Seed of the random tie-break.

    Example:
        >>> choose_best([judge.judge([comparison])[0] for comparison in comparisons]).best
        2
    """
    sort_keys = {i: judgment_sort_key(j) for i, j in enumerate(judgments) if get_written_score(j) is not None}
    if not sort_keys:
        return Choice(None, 0)
    top = max(sort_keys.values())
    tied = [i for i, sort_key in sort_keys.items() if sort_key == top]
    # A string seed gives the same sequence in every process, unlike the hash of an object.
    return Choice(random.Random(f"best-of-n-{seed}").choice(tied), len(tied))


def judgment_sort_key(judgment: Judgment) -> tuple[float, float]:
    """Return the sort key of a scored candidate: its written score, then its expected score."""
    score, expected = get_written_score(judgment), get_expected_score(judgment)
    assert score is not None, "an unscored candidate has no sort key"
    return score, score if expected is None else expected
