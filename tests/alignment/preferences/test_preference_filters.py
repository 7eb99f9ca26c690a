"""Filters of preference pairs: what is dropped, under which reason, and how prompts that repeat are told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from clips import noise, picture

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.texts import compute_similarity
from flex_judge.alignment.preferences import (
    DROP_REASONS,
    FILTERS,
    FilterSpec,
    Pair,
    PairResult,
    SeenPrompts,
    Side,
    compute_prompt_digest,
    filter_pairs,
)
from flex_judge.judges import Message, UsageError
from flex_judge.judges.media.opening import make_image

ROW = PromptRow("q1", (Message("user", "What is 2 + 3?"),))


def pair(
    chosen: str = "It is five.", rejected: str = "Perhaps it is six?", high: float = 5, low: float = 2, **rest: object
) -> Pair:
    sides = Side(0, chosen, high, None, ""), Side(1, rejected, low, None, "")
    return Pair(ROW, *sides, **{"rule": "highest_lowest", "votes": 2, "disagreement": 0.0, **rest})  # type: ignore[arg-type]


def dropped(pair: Pair, **spec: object) -> str | None:
    """Under which reason a pair is dropped; None if it is kept."""
    kept = filter_pairs(PairResult((pair,)), FilterSpec(**spec))  # type: ignore[arg-type]
    assert len(kept.pairs) + kept.dropped.total() == 1
    return next(iter(kept.dropped), None)


@pytest.mark.parametrize(("margin", "reason"), [(0, None), (3, None), (3.1, "small_margin")])
def test_scores_closer_than_the_margin_make_no_pair(margin: float, reason: str | None) -> None:
    assert dropped(pair(high=5, low=2), margin=margin) == reason


def test_a_margin_of_tenths_is_met_by_scores_that_far_apart() -> None:
    assert dropped(pair(high=3.3, low=3.0), margin=0.3) is None


@pytest.mark.parametrize(("most", "reason"), [(None, None), (0.4, None), (0.39, "disagreement"), (0.0, "disagreement")])
def test_votes_that_disagree_too_much_drop_a_pair(most: float | None, reason: str | None) -> None:
    assert dropped(pair(disagreement=0.4), max_disagreement=most) == reason


@pytest.mark.parametrize(("most", "reason"), [(None, None), (3.0, None), (2.9, "length")])
@pytest.mark.parametrize("turned", [False, True])
def test_an_answer_may_be_only_so_many_times_as_long(most: float | None, reason: str | None, turned: bool) -> None:
    texts = ["a b c d e ", "f g h i j k l m n o p q r s t "]
    assert dropped(pair(*texts[:: -1 if turned else 1]), max_length_ratio=most) == reason


def test_nearly_the_same_texts_make_no_pair_if_told_so() -> None:
    long = "The sum of two and three is five, because three more than two is five. " * 3
    assert dropped(pair(long, long.replace("sum", "total").upper())) is None
    assert dropped(pair(long, long.upper() + "  "), max_similarity=0.9) == "near_duplicate"
    assert dropped(pair(long, "It is six."), max_similarity=0.9) is None
    assert dropped(pair("It is 5.", "It is 6."), max_similarity=0.9) is None


def test_similarity_goes_from_nothing_in_common_to_the_same() -> None:
    assert compute_similarity("abcdefgh", "ABC DEF GH") < compute_similarity("abcdefgh", "abcdefgi") < 1
    assert compute_similarity("abcdefgh", "stuvwxyz") == 0
    assert compute_similarity("One  two", " one\ntwo") == 1
    assert compute_similarity("5", "5") == 1
    assert compute_similarity("5", "6") == 0
    assert compute_similarity("", "") == 1


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_cut_off_answers_make_no_pair_if_told_so(side: str) -> None:
    cut = replace(pair(), **{side: replace(getattr(pair(), side), cut=True)})
    assert dropped(cut) is None
    assert dropped(cut, allow_cut=False) == "cut"


def test_a_pair_is_dropped_under_one_reason_and_the_rules_own_counts_stay() -> None:
    bad = pair("a", "b" * 10, high=3, low=2, disagreement=0.9)
    strict = FilterSpec(margin=2, max_disagreement=0.1, max_length_ratio=2)
    kept = filter_pairs(PairResult((bad, pair()), Counter(tied=3)), strict)
    assert kept == PairResult((pair(),), Counter(tied=3, small_margin=1))
    assert set(FILTERS) < set(DROP_REASONS)


def test_of_one_prompt_only_so_many_pairs_are_kept_and_which_ones_is_drawn_by_hash() -> None:
    pairs = [pair(chosen=f"answer {i}") for i in range(30)]
    kept = filter_pairs(PairResult(tuple(pairs)), FilterSpec(per_prompt=5))
    assert len(kept.pairs) == 5
    assert kept.dropped == {"over_cap": 25}
    turned = filter_pairs(PairResult(tuple(reversed(pairs))), FilterSpec(per_prompt=5))
    assert {p.chosen.text for p in turned.pairs} == {p.chosen.text for p in kept.pairs}
    assert [p.chosen.text for p in kept.pairs] != [p.chosen.text for p in pairs[:5]]
    assert filter_pairs(PairResult(tuple(pairs)), FilterSpec(per_prompt=5, seed=1)).pairs != kept.pairs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"margin": -1}, "margin must be 0 or more, not -1"),
        ({"margin": float("nan")}, "margin must be 0 or more"),
        ({"max_disagreement": 1.5}, "max_disagreement must be from 0 to 1, not 1.5"),
        ({"max_length_ratio": 0.5}, "max_length_ratio must be 1 or more, not 0.5"),
        ({"max_similarity": -0.1}, "max_similarity must be from 0 to 1"),
        ({"per_prompt": 0}, "per_prompt must be at least 1, not 0"),
    ],
)
def test_settings_of_filters_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FilterSpec(**values)  # type: ignore[arg-type]


def test_prompts_are_the_same_whatever_their_case_and_white_space_but_not_with_other_images() -> None:
    def digest(*content: object, role: str = "user") -> str:
        return compute_prompt_digest((Message(role, content if len(content) > 1 else content[0]),))  # type: ignore[arg-type]

    assert digest("What is  2 + 3?\n") == digest("what is 2 + 3?")
    assert len(digest("x")) == 16
    one, again, other = (make_image(picture(noise(8, width))) for width in (8, 8, 9))
    assert digest(one, "What?") == digest(again, "what?") != digest(other, "What?")
    different = [digest("a", role="system"), digest("a"), digest("b"), digest(one, "a"), digest("a", one)]
    assert len(set(different)) == len(different)


def test_the_first_id_keeps_a_prompt_and_all_its_rows() -> None:
    one, other = (compute_prompt_digest((Message("user", text),)) for text in ("one", "other"))
    rows = [(one, "a"), (one, "a"), (other, "b"), (one, "c"), (one, "c"), (other, "b2"), (one, "d")]
    repeats = SeenPrompts()
    assert [repeats.is_repeat(*row) for row in rows] == [False, False, False, True, True, True, True]
