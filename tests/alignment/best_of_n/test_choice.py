"""Choosing by judgments: the highest score wins, ties are broken at random, unscored candidates never win."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.best_of_n.selection import Choice, choose_best, judgment_sort_key
from flex_judge.judges import Judgment, Status

UNSCORED = Judgment.from_failure("a", Status.TIMEOUT, "no verdict within 5 s")


def make_judgment(score: float, expected: float | None = None) -> Judgment:
    return Judgment("a", Status.OK, (score,), None if expected is None else (expected,), "")


def test_highest_score_wins() -> None:
    assert choose_best([make_judgment(3), make_judgment(5), make_judgment(4)]) == Choice(best=1, tied=1)


def test_unscored_candidate_is_never_chosen() -> None:
    for seed in range(50):
        assert choose_best([UNSCORED, make_judgment(1), UNSCORED], seed) == Choice(best=1, tied=1)


def test_chooses_nothing_without_scores() -> None:
    assert choose_best([UNSCORED, UNSCORED]) == choose_best([]) == Choice(best=None, tied=0)


def test_score_of_zero_beats_no_score() -> None:
    assert choose_best([UNSCORED, make_judgment(0.0, 0.0)]) == Choice(best=1, tied=1)


def test_expected_score_breaks_ties() -> None:
    assert choose_best([make_judgment(4, 3.9), make_judgment(4, 4.2), make_judgment(4, 4.1)]) == Choice(best=1, tied=1)


def test_expected_score_never_overrules_written_score() -> None:
    assert choose_best([make_judgment(5, 4.1), make_judgment(4, 4.9)]) == Choice(best=0, tied=1)


def test_ties_are_counted_and_broken_by_seed() -> None:
    judgments = [make_judgment(4, 4.0), make_judgment(2), make_judgment(4, 4.0), UNSCORED, make_judgment(4, 4.0)]
    choices = [choose_best(judgments, seed) for seed in range(600)]
    assert choices == [choose_best(judgments, seed) for seed in range(600)]
    assert {choice.tied for choice in choices} == {3}
    shares = Counter(choice.best for choice in choices)
    assert set(shares) == {0, 2, 4}
    assert min(shares.values()) > 150


def test_seed_may_be_a_string_per_prompt() -> None:
    judgments = [make_judgment(4)] * 4
    assert len({choose_best(judgments, f"7-question-{i}").best for i in range(50)}) == 4


def test_unscored_candidate_has_no_sort_key() -> None:
    with pytest.raises(AssertionError, match="no sort key"):
        judgment_sort_key(UNSCORED)


candidates = st.lists(
    st.one_of(st.just(UNSCORED), st.builds(make_judgment, st.integers(0, 5), st.none() | st.floats(0, 5))), max_size=8
)


@settings(deadline=None)
@given(candidates, st.integers())
def test_no_candidate_scores_above_the_chosen_one(judgments: list[Judgment], seed: int) -> None:
    choice = choose_best(judgments, seed)
    scores = [j.scores[0] for j in judgments if j.scores]
    if not scores:
        assert choice == Choice(None, 0)
        return
    assert choice.best is not None
    assert judgments[choice.best].scores == (max(scores),)
    assert choice.tied == sum(
        j.scores is not None and judgment_sort_key(j) == judgment_sort_key(judgments[choice.best]) for j in judgments
    )
