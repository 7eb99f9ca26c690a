"""`pair_highest_with_lowest`: one preference row from the judged answers to a prompt."""

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


def make_judgment(score: float, expected: float | None = None, reasoning: str = "") -> Judgment:
    expectations = None if expected is None else (expected,)
    provenance = {"rubric": "general"}
    return Judgment("a", Status.OK, (score,), expectations, reasoning, model="judge@1", provenance=provenance)


def make_row(judgments: Sequence[Judgment], responses: Sequence[str] = "abcdefgh") -> dict[str, Any] | str:
    return pair_highest_with_lowest(PROMPT, responses[: len(judgments)], judgments)


def get_texts(row: dict[str, Any] | str) -> tuple[str, str]:
    assert isinstance(row, dict), row
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def test_row_has_trl_columns_and_provenance() -> None:
    judgments = [make_judgment(2, 2.2, "wrong"), make_judgment(3), make_judgment(5, 4.8, "right")]
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


def test_leaves_out_unscored_answers() -> None:
    assert get_texts(make_row([UNSCORED, make_judgment(4), UNSCORED, make_judgment(2)])) == ("b", "d")


@pytest.mark.parametrize("judgments", [[make_judgment(4), UNSCORED], [UNSCORED, UNSCORED]])
def test_makes_no_pair_with_fewer_than_two_scored_answers(judgments: list[Judgment]) -> None:
    assert make_row(judgments) == "unscored"


def test_leaves_out_empty_answers() -> None:
    assert get_texts(
        make_row([make_judgment(5), make_judgment(4), make_judgment(2), make_judgment(1)], ["", "b", "c", " \n"])
    ) == ("b", "c")
    assert make_row([make_judgment(5), make_judgment(1)], [" ", "b"]) == "empty"
    assert make_row([]) == "empty"
    assert make_row([make_judgment(4)]) == "empty"


def test_makes_no_pair_of_equal_written_scores() -> None:
    assert make_row([make_judgment(4, 4.4), make_judgment(4, 3.6)]) == "tied"
    assert make_row([make_judgment(4), make_judgment(4), make_judgment(4)]) == "tied"


def test_expected_scores_break_ties() -> None:
    judgments = [make_judgment(5, 4.6), make_judgment(5, 4.9), make_judgment(1, 1.4), make_judgment(1, 1.1)]
    assert get_texts(make_row(judgments)) == ("b", "d")


def test_makes_no_pair_of_equal_texts() -> None:
    assert make_row([make_judgment(5), make_judgment(1)], ["5", " 5\n"]) == "equal_text"
    assert make_row([make_judgment(5), make_judgment(1), make_judgment(3)], ["5", "5", "6"]) == "equal_text"


@pytest.mark.parametrize(
    ("high", "low", "margin"), [(3.3, 3.0, 0.3), (4.7, 4.6, 0.1), (1.1, 1.0, 0.1), (4.4, 1.1, 3.3)]
)
def test_margin_has_no_floating_point_error(high: float, low: float, margin: float) -> None:
    row = make_row([make_judgment(high), make_judgment(low)])
    assert isinstance(row, dict)
    assert row["margin"] == margin


candidates = st.lists(
    st.tuples(
        st.one_of(st.just(UNSCORED), st.builds(make_judgment, st.integers(1, 5), st.none() | st.floats(1, 5))),
        st.sampled_from(["", " ", "5", "6", "7 "]),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(candidates)
def test_chosen_has_the_highest_and_rejected_the_lowest_score(rows: list[tuple[Judgment, str]]) -> None:
    judgments, responses = [j for j, _ in rows], [r for _, r in rows]
    row = pair_highest_with_lowest(PROMPT, responses, judgments)
    if isinstance(row, str):
        assert row in DROP_REASONS
        return
    scores = [j.scores[0] for j, r in rows if j.scores and r.strip()]
    assert (row["score_chosen"], row["score_rejected"]) == (max(scores), min(scores))
    assert row["margin"] >= 1.0
    chosen, rejected = get_texts(row)
    assert chosen.strip()
    assert rejected.strip()
    assert chosen.strip() != rejected.strip()
    assert responses[row["provenance"]["chosen_index"]] == chosen
    assert responses[row["provenance"]["rejected_index"]] == rejected
