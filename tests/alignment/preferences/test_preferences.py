"""One prompt's judged answers as a preference pair: only where one answer is scored higher than another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.preferences import DROP_REASONS, compute_prompt_digest, pair_highest_with_lowest
from flex_judge.judges import Judgment, Message, Status

PROMPT = (Message("system", "Be brief."), Message("user", "What is 2 + 3?"))
UNSCORED = Judgment.from_failure("a", Status.UNPARSEABLE, "no <answer>")


def scored(score: float, expected: float | None = None, reasoning: str = "") -> Judgment:
    expectations = None if expected is None else (expected,)
    provenance = {"rubric": "general"}
    return Judgment("a", Status.OK, (score,), expectations, reasoning, model="judge@1", provenance=provenance)


def pair(judgments: Sequence[Judgment], responses: Sequence[str] = "abcdefgh") -> dict[str, Any] | str:
    return pair_highest_with_lowest(PROMPT, responses[: len(judgments)], judgments)


def texts(row: dict[str, Any] | str) -> tuple[str, str]:
    assert isinstance(row, dict), row
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def test_a_pair_has_the_form_that_trl_reads_and_says_where_it_comes_from() -> None:
    judgments = [scored(2, 2.2, "wrong"), scored(3), scored(5, 4.8, "right")]
    row = pair_highest_with_lowest(PROMPT, ["6", "5?", "5"], judgments, id="q7")
    assert row == {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}],
        "chosen": [{"role": "assistant", "content": "5"}],
        "rejected": [{"role": "assistant", "content": "6"}],
        "score_chosen": 5,
        "score_rejected": 2,
        "margin": 3,
        "judge_reasoning": {"chosen": "right", "rejected": "wrong"},
        "provenance": {
            "id": "q7",
            "prompt_digest": compute_prompt_digest(PROMPT),
            "rule": "highest_lowest",
            "rubric": "general",
            "judge": "judge@1",
            "policy": "",
            "chosen_index": 2,
            "rejected_index": 0,
            "expected_score_chosen": 4.8,
            "expected_score_rejected": 2.2,
            "temperature_chosen": None,
            "temperature_rejected": None,
            "votes": 2,
            "disagreement": 0.0,
        },
    }


def test_an_unscored_answer_is_neither_chosen_nor_rejected() -> None:
    assert texts(pair([UNSCORED, scored(4), UNSCORED, scored(2)])) == ("b", "d")


@pytest.mark.parametrize("judgments", [[scored(4), UNSCORED], [UNSCORED, UNSCORED]])
def test_with_fewer_than_two_scored_answers_there_is_no_pair(judgments: list[Judgment]) -> None:
    assert pair(judgments) == "unscored"


def test_an_empty_answer_is_neither_chosen_nor_rejected() -> None:
    assert texts(pair([scored(5), scored(4), scored(2), scored(1)], ["", "b", "c", " \n"])) == ("b", "c")
    assert pair([scored(5), scored(1)], [" ", "b"]) == "empty"
    assert pair([]) == "empty"
    assert pair([scored(4)]) == "empty"


def test_equal_scores_make_no_pair_however_different_the_expected_ones() -> None:
    assert pair([scored(4, 4.4), scored(4, 3.6)]) == "tied"
    assert pair([scored(4), scored(4), scored(4)]) == "tied"


def test_expected_scores_decide_which_of_equal_answers_is_taken() -> None:
    judgments = [scored(5, 4.6), scored(5, 4.9), scored(1, 1.4), scored(1, 1.1)]
    assert texts(pair(judgments)) == ("b", "d")


def test_the_same_text_makes_no_pair() -> None:
    assert pair([scored(5), scored(1)], ["5", " 5\n"]) == "equal_text"
    assert pair([scored(5), scored(1), scored(3)], ["5", "5", "6"]) == "equal_text"


@pytest.mark.parametrize(
    ("high", "low", "margin"), [(3.3, 3.0, 0.3), (4.7, 4.6, 0.1), (1.1, 1.0, 0.1), (4.4, 1.1, 3.3)]
)
def test_the_margin_is_the_difference_as_it_is_written(high: float, low: float, margin: float) -> None:
    row = pair([scored(high), scored(low)])
    assert isinstance(row, dict)
    assert row["margin"] == margin


candidates = st.lists(
    st.tuples(
        st.one_of(st.just(UNSCORED), st.builds(scored, st.integers(1, 5), st.none() | st.floats(1, 5))),
        st.sampled_from(["", " ", "5", "6", "7 "]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(candidates)
def test_no_answer_scores_above_the_chosen_or_below_the_rejected_one(rows: list[tuple[Judgment, str]]) -> None:
    judgments, responses = [j for j, _ in rows], [r for _, r in rows]
    row = pair_highest_with_lowest(PROMPT, responses, judgments)
    if isinstance(row, str):
        assert row in DROP_REASONS
        return
    scores = [j.scores[0] for j, r in rows if j.scores and r.strip()]
    assert (row["score_chosen"], row["score_rejected"]) == (max(scores), min(scores))
    assert row["margin"] >= 1.0
    chosen, rejected = texts(row)
    assert chosen.strip()
    assert rejected.strip()
    assert chosen.strip() != rejected.strip()
    assert responses[row["provenance"]["chosen_index"]] == chosen
    assert responses[row["provenance"]["rejected_index"]] == rejected
