"""Successive halving: judgments go to the candidates that may still win, within the budget."""

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


def make_state(*scores: float, errors: Sequence[float] = ()) -> CandidateState:
    """Make the state of a candidate with these scores."""
    return CandidateState(scores, tuple(errors), len(scores))


def make_judgment(score: float | None, status: Status = Status.UNPARSEABLE, **fields: Any) -> Judgment:
    if score is None:
        return Judgment.from_failure("", status, "no", **fields)
    return Judgment("", Status.OK, (score,), None, "", votes=(Verdict(Status.OK, (score,)),), **fields)


class JudgmentTable:
    """Judge that reads its judgments from a table and records the requests."""

    def __init__(self, rows: Sequence[Sequence[Judgment]]) -> None:
        self.rows, self.requests = rows, list[tuple[int, int]]()

    @property
    def counts(self) -> Counter[int]:
        return Counter(i for i, _ in self.requests)

    async def judge(self, candidate: int, sample_index: int) -> Judgment:
        self.requests.append((candidate, sample_index))
        return self.rows[candidate][sample_index]


async def run_table(
    rows: Sequence[Sequence[Judgment]], rules: HalvingRules = RULES
) -> tuple[HalvingResult, JudgmentTable]:
    table = JudgmentTable(rows)
    return await run_halving(range(len(rows)), table.judge, rules), table


def find_winner(result: HalvingResult) -> int:
    return max(result.sort_keys, key=lambda i: result.sort_keys[i])


async def test_judges_each_candidate_once_if_the_winner_is_clear() -> None:
    result, table = await run_table([[make_judgment(9)] * 8] + [[make_judgment(2)] * 8] * 15)
    assert table.requests == [(i, 0) for i in range(16)]
    assert find_winner(result) == 0


async def test_judgments_go_to_candidates_that_may_still_win() -> None:
    rng = Random(3)
    rows = [[make_judgment(level + rng.choice((-1, 0, 1))) for _ in range(8)] for level in [8, 7.5, 7] + [3] * 13]
    result, table = await run_table(rows)
    assert {i for i, count in table.counts.items() if count > 1} <= {0, 1, 2}
    assert table.counts[0] > 3
    assert find_winner(result) == 0


async def test_each_round_keeps_one_more_than_half_at_full_confidence() -> None:
    certain = HalvingRules(votes=8, budget=64, confidence=1.0, noise=1.5)
    _, table = await run_table([[make_judgment(5 + i / 10)] * 8 for i in range(16)], certain)
    assert sorted(table.counts.values()) == [1] * 7 + [2] * 4 + [5] * 2 + [8] * 3


async def test_tied_candidates_use_all_votes() -> None:
    result, table = await run_table([[make_judgment(7)] * 8] * 2, HalvingRules(8, 16, 0.95, 1.5))
    assert table.counts == {0: 8, 1: 8}
    assert result.sort_keys[0] == result.sort_keys[1]


async def test_sample_indices_of_a_candidate_are_consecutive() -> None:
    _, table = await run_table([[make_judgment(7)] * 8] * 5)
    for i in range(5):
        sample_indices = [sample_index for candidate, sample_index in table.requests if candidate == i]
        assert sample_indices == list(range(len(sample_indices)))


async def test_failed_judgment_is_retried_once_and_does_not_count_against_the_candidate() -> None:
    result, table = await run_table(
        [[make_judgment(None), make_judgment(9)], [make_judgment(2)] * 8, [make_judgment(None)] * 8]
    )
    assert find_winner(result) == 0
    assert table.counts[2] == 2
    assert 2 not in result.sort_keys


async def test_overlong_response_is_not_retried() -> None:
    _, table = await run_table([[make_judgment(None, Status.OVERLONG)] * 8, [make_judgment(2)] * 8])
    assert table.counts == {0: 1, 1: 1}


async def test_has_no_winner_without_scores() -> None:
    result, table = await run_table([[make_judgment(None)] * 8] * 4)
    assert not result.sort_keys
    assert table.counts == dict.fromkeys(range(4), 2)


async def test_greedy_judge_is_asked_once() -> None:
    judgment = make_judgment(7, provenance={"settings": {"temperature": 0.0}})
    _, table = await run_table([[judgment] * 8] * 4)
    assert table.counts == dict.fromkeys(range(4), 1)


tables = st.lists(st.lists(st.none() | st.integers(1, 10), min_size=6, max_size=6), min_size=1, max_size=9)


@settings(deadline=None, max_examples=80)
@given(tables, st.sampled_from([0.2, 0.5, 1.0]), st.sampled_from([0.5, 0.95, 1.0]))
async def test_respects_budget_and_maximum_votes(rows: list[list[int | None]], share: float, confidence: float) -> None:
    budget = max(len(rows), math.floor(share * 6 * len(rows)))
    result, table = await run_table(
        [[make_judgment(s) for s in row] for row in rows], HalvingRules(6, budget, confidence, 1.5)
    )
    assert len(result.matches) == len(table.requests) <= max(budget, len(rows))
    assert set(table.counts) == set(range(len(rows)))
    assert max(table.counts.values()) <= 6
    assert set(result.sort_keys) == {i for i, row in enumerate(rows) if any(row[: table.counts[i]])}


def test_candidate_behind_by_less_than_the_noise_stays() -> None:
    states = {0: make_state(8, 8), 1: make_state(7, 7), 2: make_state(2, 2)}
    assert select_contenders(states, 3, RULES) == [0, 1]
    assert select_contenders(states, 1, RULES) == [0]


def test_any_difference_decides_with_all_votes_cast() -> None:
    full = [7.0] * 8
    assert is_behind(make_state(*full), make_state(*full[:-1], 7.1), noise=9.0, rules=RULES)
    assert not is_behind(make_state(*full), make_state(*full), noise=9.0, rules=RULES)


def test_more_votes_detect_smaller_differences() -> None:
    decisions = [is_behind(make_state(*[6.0] * n), make_state(*[7.5] * n), 1.5, RULES) for n in range(1, 9)]
    assert decisions == sorted(decisions)
    assert (decisions[0], decisions[-1]) == (False, True)


def test_nobody_is_dropped_early_at_full_confidence() -> None:
    certain = HalvingRules(8, 64, 1.0, 1.5)
    assert not is_behind(make_state(1), make_state(10), noise=0.1, rules=certain)


def test_noise_is_estimated_from_differences_between_judgments() -> None:
    assert estimate_noise([make_state(5), make_state(9)], assumed=1.5) == 1.5
    steady, wild = [make_state(5, 5, 5, 5)] * 8, [make_state(2, 8, 2, 8)] * 8
    assert estimate_noise(steady, 1.5) < 0.6
    assert estimate_noise(wild, 1.5) > 2.5


def test_reported_uncertainty_can_only_raise_the_noise() -> None:
    assert estimate_noise([make_state(5, errors=[9.0])], assumed=1.5) == 3.0
    assert estimate_noise([make_state(5, errors=[0.01])], assumed=1.5) == 1.5


def test_error_is_the_squared_spread_divided_by_the_number_of_votes() -> None:
    votes = tuple(Verdict(Status.OK, (s,)) for s in (4.0, 6.0))
    state = CandidateState().with_judgment(Judgment("", Status.OK, (5.0,), None, "", spread=(1.0,), votes=votes))
    assert state == CandidateState((5.0,), (0.5,), 1)


def noisy_judge(prompt: str, sampling: Sampling) -> str:
    """Score `level 4` with 4, plus or minus one."""
    if sampling.stop == ("</think>",):
        return "Hm.</think>"
    level = int(prompt.rpartition("level ")[2].partition(" ")[0].partition("<")[0])
    return f"<answer>{level + Random(f'{level}/{sampling.sample_index}').choice((-1, 0, 1))}</answer>"


async def test_halving_spends_less_than_the_full_budget_with_a_sampling_judge() -> None:
    judge = FlexJudge(ScriptedEngine(noisy_judge), JudgeSettings(100, 60, seed=1))
    comparisons: list[Comparison] = []

    async def ask(comparison: Comparison) -> Judgment:
        comparisons.append(comparison)
        return await judge.ajudge(comparison)

    responses = [f"level {level}" for level in (2, 3, 2, 9, 7, 4, 3, 2)]
    prompt = (Message("user", "How high?"),)
    selection = await select_best(prompt, responses, SelectionSpec("halving", votes=6), ask, id="q")
    assert selection.best == 3
    assert 5 < len(comparisons) <= 5 * 6 / 2  # five responses are distinct
    assert len({(content_to_text(c.responses[0]), c.sample_index) for c in comparisons}) == len(comparisons)
    assert [j.id for j in selection.judgments] == [
        f"q/{i}/{c.sample_index}" for (i,), c in zip(selection.judged, comparisons, strict=True)
    ]


async def test_winner_ranks_above_a_dropped_candidate_with_a_higher_mean() -> None:
    rows = {"low": [1] * 8, "lucky": [9, 1, 1, 1, 1, 1, 1, 1], "good": [9, 9, 9, 9, 9, 9, 9, 9], "even": [8] * 8}

    async def ask(comparison: Comparison) -> Judgment:
        return make_judgment(rows[content_to_text(comparison.responses[0])][comparison.sample_index])

    texts = list(rows)
    selection = await select_best((Message("user", "?"),), texts, SelectionSpec("halving"), ask)  # type: ignore[arg-type]
    assert selection.best == texts.index("good")
    rates = [rate for rate in selection.win_rates if rate is not None]
    assert selection.win_rates[selection.best] == max(rates) == 1.0
