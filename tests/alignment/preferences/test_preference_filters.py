"""Filters of preference pairs: dropped pairs and their reasons, and detection of repeated prompts."""

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


def make_pair(
    chosen: str = "It is five.", rejected: str = "Perhaps it is six?", high: float = 5, low: float = 2, **fields: object
) -> Pair:
    sides = Side(0, chosen, high, None, ""), Side(1, rejected, low, None, "")
    return Pair(ROW, *sides, **{"rule": "highest_lowest", "votes": 2, "disagreement": 0.0, **fields})  # type: ignore[arg-type]


def find_drop_reason(pair: Pair, **spec: object) -> str | None:
    """Return the reason why a pair is dropped; None if it is not."""
    result = filter_pairs(PairResult((pair,)), FilterSpec(**spec))  # type: ignore[arg-type]
    assert len(result.pairs) + result.dropped.total() == 1
    return next(iter(result.dropped), None)


@pytest.mark.parametrize(("margin", "reason"), [(0, None), (3, None), (3.1, "small_margin")])
def test_drops_scores_closer_than_the_margin(margin: float, reason: str | None) -> None:
    assert find_drop_reason(make_pair(high=5, low=2), margin=margin) == reason


def test_margin_ignores_floating_point_error() -> None:
    assert find_drop_reason(make_pair(high=3.3, low=3.0), margin=0.3) is None


@pytest.mark.parametrize(
    ("limit", "reason"), [(None, None), (0.4, None), (0.39, "disagreement"), (0.0, "disagreement")]
)
def test_drops_too_much_disagreement(limit: float | None, reason: str | None) -> None:
    assert find_drop_reason(make_pair(disagreement=0.4), max_disagreement=limit) == reason


@pytest.mark.parametrize(("limit", "reason"), [(None, None), (3.0, None), (2.9, "length")])
@pytest.mark.parametrize("swapped", [False, True])
def test_drops_unequal_lengths(limit: float | None, reason: str | None, swapped: bool) -> None:
    texts = ["a b c d e ", "f g h i j k l m n o p q r s t "]
    assert find_drop_reason(make_pair(*texts[:: -1 if swapped else 1]), max_length_ratio=limit) == reason


def test_drops_near_duplicates_if_enabled() -> None:
    long = "The sum of two and three is five, because three more than two is five. " * 3
    assert find_drop_reason(make_pair(long, long.replace("sum", "total").upper())) is None
    assert find_drop_reason(make_pair(long, long.upper() + "  "), max_similarity=0.9) == "near_duplicate"
    assert find_drop_reason(make_pair(long, "It is six."), max_similarity=0.9) is None
    assert find_drop_reason(make_pair("It is 5.", "It is 6."), max_similarity=0.9) is None


def test_similarity_ranges_from_0_to_1() -> None:
    assert compute_similarity("abcdefgh", "ABC DEF GH") < compute_similarity("abcdefgh", "abcdefgi") < 1
    assert compute_similarity("abcdefgh", "stuvwxyz") == 0
    assert compute_similarity("One  two", " one\ntwo") == 1
    assert compute_similarity("5", "5") == 1
    assert compute_similarity("5", "6") == 0
    assert compute_similarity("", "") == 1


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_drops_truncated_answers_if_enabled(side: str) -> None:
    truncated = replace(make_pair(), **{side: replace(getattr(make_pair(), side), cut=True)})
    assert find_drop_reason(truncated) is None
    assert find_drop_reason(truncated, allow_cut=False) == "cut"


def test_counts_one_reason_per_pair_and_keeps_the_counts_of_the_rule() -> None:
    bad = make_pair("a", "b" * 10, high=3, low=2, disagreement=0.9)
    strict = FilterSpec(margin=2, max_disagreement=0.1, max_length_ratio=2)
    result = filter_pairs(PairResult((bad, make_pair()), Counter(tied=3)), strict)
    assert result == PairResult((make_pair(),), Counter(tied=3, small_margin=1))
    assert set(FILTERS) < set(DROP_REASONS)


def test_limits_pairs_per_prompt_by_hash() -> None:
    pairs = [make_pair(chosen=f"answer {i}") for i in range(30)]
    result = filter_pairs(PairResult(tuple(pairs)), FilterSpec(per_prompt=5))
    assert len(result.pairs) == 5
    assert result.dropped == {"over_cap": 25}
    reversed_result = filter_pairs(PairResult(tuple(reversed(pairs))), FilterSpec(per_prompt=5))
    assert {p.chosen.text for p in reversed_result.pairs} == {p.chosen.text for p in result.pairs}
    assert [p.chosen.text for p in result.pairs] != [p.chosen.text for p in pairs[:5]]
    assert filter_pairs(PairResult(tuple(pairs)), FilterSpec(per_prompt=5, seed=1)).pairs != result.pairs


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
def test_rejects_invalid_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FilterSpec(**values)  # type: ignore[arg-type]


def test_prompt_digest_ignores_case_and_white_space_but_not_images() -> None:
    def digest(*content: object, role: str = "user") -> str:
        return compute_prompt_digest((Message(role, content if len(content) > 1 else content[0]),))  # type: ignore[arg-type]

    assert digest("What is  2 + 3?\n") == digest("what is 2 + 3?")
    assert len(digest("x")) == 16
    one, again, other = (make_image(picture(noise(8, width))) for width in (8, 8, 9))
    assert digest(one, "What?") == digest(again, "what?") != digest(other, "What?")
    different = [digest("a", role="system"), digest("a"), digest("b"), digest(one, "a"), digest("a", one)]
    assert len(set(different)) == len(different)


def test_first_id_of_a_prompt_keeps_all_its_rows() -> None:
    one, other = (compute_prompt_digest((Message("user", text),)) for text in ("one", "other"))
    rows = [(one, "a"), (one, "a"), (other, "b"), (one, "c"), (one, "c"), (other, "b2"), (one, "d")]
    repeats = SeenPrompts()
    assert [repeats.is_repeat(*row) for row in rows] == [False, False, False, True, True, True, True]
