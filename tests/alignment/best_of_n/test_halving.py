"""Successive halving: votes go where the top is undecided, never more than there are to give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.best_of_n.halving import (
    CandidateState,
    HalvingResult,
    HalvingRules,
    estimate_noise,
    is_behind,
    run_halving,
    select_contenders,
)
from flex_judge.alignment.best_of_n.selection import SelectionSpec, select_best
from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Message, Status, Verdict
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.types import content_to_text

RULES = HalvingRules(votes=8, budget=64, confidence=0.95, noise=1.5)


def scored(*figures: float, errors: Sequence[float] = ()) -> CandidateState:
    return CandidateState(figures, tuple(errors), len(figures))


def said(score: float | None, status: Status = Status.UNPARSEABLE, **rest: Any) -> Judgment:
    if score is None:
        return Judgment.from_failure("", status, "no", **rest)
    return Judgment("", Status.OK, (score,), None, "", votes=(Verdict(Status.OK, (score,)),), **rest)


class Table:
    """Votes read off a table; keeps who was asked for which."""

    def __init__(self, rows: Sequence[Sequence[Judgment]]) -> None:
        self.rows, self.asked = rows, list[tuple[int, int]]()

    @property
    def counts(self) -> Counter[int]:
        return Counter(i for i, _ in self.asked)

    async def vote(self, candidate: int, sample_index: int) -> Judgment:
        self.asked.append((candidate, sample_index))
        return self.rows[candidate][sample_index]


async def raced(rows: Sequence[Sequence[Judgment]], rules: HalvingRules = RULES) -> tuple[HalvingResult, Table]:
    table = Table(rows)
    return await run_halving(range(len(rows)), table.vote, rules), table


def best(race: HalvingResult) -> int:
    return max(race.worth, key=lambda i: race.worth[i])


async def test_everyone_is_judged_once_and_a_clear_winner_needs_no_more() -> None:
    race, table = await raced([[said(9)] * 8] + [[said(2)] * 8] * 15)
    assert table.asked == [(i, 0) for i in range(16)]
    assert best(race) == 0


async def test_votes_go_to_those_who_may_still_win() -> None:
    sample_index = Random(3)
    rows = [[said(level + sample_index.choice((-1, 0, 1))) for _ in range(8)] for level in [8, 7.5, 7] + [3] * 13]
    race, table = await raced(rows)
    assert {i for i, count in table.counts.items() if count > 1} <= {0, 1, 2}
    assert table.counts[0] > 3
    assert best(race) == 0


async def test_each_round_leaves_half_of_them_and_one_more_where_nothing_is_certain_enough() -> None:
    certain = HalvingRules(votes=8, budget=64, confidence=1.0, noise=1.5)
    _, table = await raced([[said(5 + i / 10)] * 8 for i in range(16)], certain)
    assert sorted(table.counts.values()) == [1] * 7 + [2] * 4 + [5] * 2 + [8] * 3


async def test_those_who_are_level_have_all_votes_and_not_more() -> None:
    race, table = await raced([[said(7)] * 8] * 2, HalvingRules(8, 16, 0.95, 1.5))
    assert table.counts == {0: 8, 1: 8}
    assert race.worth[0] == race.worth[1]


async def test_draws_of_a_candidate_are_asked_for_one_after_the_other_and_none_twice() -> None:
    _, table = await raced([[said(7)] * 8] * 5)
    for i in range(5):
        draws = [sample_index for who, sample_index in table.asked if who == i]
        assert draws == list(range(len(draws)))


async def test_a_failed_vote_is_asked_for_once_more_and_does_not_count_against_anyone() -> None:
    race, table = await raced([[said(None), said(9)], [said(2)] * 8, [said(None)] * 8])
    assert best(race) == 0
    assert table.counts[2] == 2
    assert 2 not in race.worth


async def test_what_does_not_fit_the_judge_is_not_asked_about_again() -> None:
    _, table = await raced([[said(None, Status.OVERLONG)] * 8, [said(2)] * 8])
    assert table.counts == {0: 1, 1: 1}


async def test_where_no_vote_has_a_score_there_is_no_winner() -> None:
    race, table = await raced([[said(None)] * 8] * 4)
    assert not race.worth
    assert table.counts == dict.fromkeys(range(4), 2)


async def test_a_judge_that_would_say_the_same_again_is_asked_once() -> None:
    judgment = said(7, provenance={"settings": {"temperature": 0.0}})
    _, table = await raced([[judgment] * 8] * 4)
    assert table.counts == dict.fromkeys(range(4), 1)


tables = st.lists(st.lists(st.none() | st.integers(1, 10), min_size=6, max_size=6), min_size=1, max_size=9)


@settings(deadline=None, max_examples=80)
@given(tables, st.sampled_from([0.2, 0.5, 1.0]), st.sampled_from([0.5, 0.95, 1.0]))
async def test_no_budget_is_overdrawn_and_no_candidate_has_more_votes_than_it_may(
    rows: list[list[int | None]], share: float, confidence: float
) -> None:
    budget = max(len(rows), math.floor(share * 6 * len(rows)))
    race, table = await raced([[said(s) for s in row] for row in rows], HalvingRules(6, budget, confidence, 1.5))
    assert len(race.matches) == len(table.asked) <= max(budget, len(rows))
    assert set(table.counts) == set(range(len(rows)))
    assert max(table.counts.values()) <= 6
    assert set(race.worth) == {i for i, row in enumerate(rows) if any(row[: table.counts[i]])}


def test_who_is_behind_by_less_than_the_noise_explains_stays() -> None:
    heard = {0: scored(8, 8), 1: scored(7, 7), 2: scored(2, 2)}
    assert select_contenders(heard, 3, RULES) == [0, 1]
    assert select_contenders(heard, 1, RULES) == [0]


def test_with_all_votes_cast_any_difference_decides() -> None:
    full = [7.0] * 8
    assert is_behind(scored(*full), scored(*full[:-1], 7.1), noise=9.0, rules=RULES)
    assert not is_behind(scored(*full), scored(*full), noise=9.0, rules=RULES)


def test_the_more_votes_the_smaller_the_difference_that_decides() -> None:
    behind = [is_behind(scored(*[6.0] * n), scored(*[7.5] * n), 1.5, RULES) for n in range(1, 9)]
    assert behind == sorted(behind)
    assert (behind[0], behind[-1]) == (False, True)


def test_nobody_is_certain_to_stay_behind_while_there_are_votes_to_come() -> None:
    certain = HalvingRules(8, 64, 1.0, 1.5)
    assert not is_behind(scored(1), scored(10), noise=0.1, rules=certain)


def test_the_noise_is_learnt_from_what_votes_differ_by() -> None:
    assert estimate_noise([scored(5), scored(9)], assumed=1.5) == 1.5
    steady, wild = [scored(5, 5, 5, 5)] * 8, [scored(2, 8, 2, 8)] * 8
    assert estimate_noise(steady, 1.5) < 0.6
    assert estimate_noise(wild, 1.5) > 2.5


def test_a_judge_that_says_it_is_unsure_is_believed_and_one_that_says_it_is_sure_is_not() -> None:
    assert estimate_noise([scored(5, errors=[9.0])], assumed=1.5) == 3.0
    assert estimate_noise([scored(5, errors=[0.01])], assumed=1.5) == 1.5


def test_the_spread_of_a_judgment_by_several_votes_is_that_of_one_of_them() -> None:
    votes = tuple(Verdict(Status.OK, (s,)) for s in (4.0, 6.0))
    heard = CandidateState().with_judgment(Judgment("", Status.OK, (5.0,), None, "", spread=(1.0,), votes=votes))
    assert heard == CandidateState((5.0,), (0.5,), 1)


def noisy(prompt: str, sampling: Sampling) -> str:
    """Scores `level 4` with 4, give or take one."""
    if sampling.stop == ("</think>",):
        return "Hm.</think>"
    level = int(prompt.rpartition("level ")[2].partition(" ")[0].partition("<")[0])
    return f"<answer>{level + Random(f'{level}/{sampling.sample_index}').choice((-1, 0, 1))}</answer>"


async def test_a_judge_draws_other_votes_each_time_and_halving_spends_less_than_all() -> None:
    judge = FlexJudge(ScriptedEngine(noisy), JudgeSettings(100, 60, seed=1))
    asked: list[Comparison] = []

    async def ask(comparison: Comparison) -> Judgment:
        asked.append(comparison)
        return await judge.ajudge(comparison)

    responses = [f"level {level}" for level in (2, 3, 2, 9, 7, 4, 3, 2)]
    prompt = (Message("user", "How high?"),)
    selection = await select_best(prompt, responses, SelectionSpec("halving", votes=6), ask, id="q")
    assert selection.best == 3
    assert 5 < len(asked) <= 5 * 6 / 2  # five are different
    assert len({(content_to_text(c.responses[0]), c.sample_index) for c in asked}) == len(asked)
    assert [j.id for j in selection.judgments] == [
        f"q/{i}/{c.sample_index}" for (i,), c in zip(selection.judged, asked, strict=True)
    ]


async def test_the_winner_stands_above_one_that_was_given_up_with_a_higher_mean() -> None:
    rows = {"low": [1] * 8, "lucky": [9, 1, 1, 1, 1, 1, 1, 1], "good": [9, 9, 9, 9, 9, 9, 9, 9], "even": [8] * 8}

    async def ask(comparison: Comparison) -> Judgment:
        return said(rows[content_to_text(comparison.responses[0])][comparison.sample_index])

    texts = list(rows)
    selection = await select_best((Message("user", "?"),), texts, SelectionSpec("halving"), ask)  # type: ignore[arg-type]
    assert selection.best == texts.index("good")
    rates = [rate for rate in selection.win_rates if rate is not None]
    assert selection.win_rates[selection.best] == max(rates) == 1.0
