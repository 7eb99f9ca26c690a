"""Comparisons, verdicts and judgments: construction, permutation, JSON and pickling."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from flex_judge.judges import Comparison, Judgment, Message, Status, Usage, UsageError, Verdict, errors
from flex_judge.judges.types import Trajectory

SCORED = Verdict(
    Status.OK,
    (3.0, 5.0),
    (3.25, 4.5),
    (0.5, 0.25),
    reasoning="the second is right",
    order=(0, 1),
    forced_answer="budget",
)
CHOSEN = Verdict(Status.OK, (1.0, 0.0), choice="A>B", order=(1, 0), num_waits=2)
FAILED = Verdict(Status.UNPARSEABLE, reasoning="hm", detail="no <answer>")


def make_judgment(*scores: float, **fields: Any) -> Judgment:
    return Judgment("a", Status.OK, scores, None, "", **fields)


def test_string_becomes_one_user_message() -> None:
    comparison = Comparison.of("What is 2 + 3?", "5", "6", rubric="correctness", id="q1")
    assert comparison == Comparison("q1", (Message("user", "What is 2 + 3?"),), ("5", "6"), "correctness")


def test_chat_messages_are_accepted() -> None:
    chat = [{"role": "user", "content": "Hi"}, Message("assistant", "Hello"), {"role": "user", "content": "2 + 3?"}]
    comparison = Comparison.of(chat, [{"role": "assistant", "content": "5"}])
    assert [m.role for m in comparison.prompt] == ["user", "assistant", "user"]
    assert comparison.responses == ("5",)


def test_several_response_messages_are_a_trajectory() -> None:
    messages = [{"role": "assistant", "content": "5"}, {"role": "assistant", "content": "Bye"}]
    (response,) = Comparison.of("q", messages).responses
    assert response == Trajectory((Message("assistant", "5"), Message("assistant", "Bye")))
    assert Comparison.of("q", messages, view="final").responses == ("Bye",)


@pytest.mark.parametrize(
    "prompt",
    [[], [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": None}], ["x"], None, 7, {"a": 1}],
)
def test_prompt_of_another_type_raises_a_usage_error(prompt: Any) -> None:
    with pytest.raises(UsageError, match="prompt"):
        Comparison.of(prompt, "a")


@pytest.mark.parametrize("response", [None, 5, [{"role": "assistant"}]])
def test_response_of_another_type_raises_a_usage_error(response: Any) -> None:
    with pytest.raises(UsageError):
        Comparison.of("What is 2 + 3?", response)


def test_swapping_twice_changes_nothing() -> None:
    comparison = Comparison.of("q", "a", "b", id="1")
    assert comparison.swap_responses().responses == ("b", "a")
    assert comparison.swap_responses().swap_responses() == comparison
    assert SCORED.swap_responses().scores == (5.0, 3.0)
    assert SCORED.swap_responses().expected_scores == (4.5, 3.25)
    assert SCORED.swap_responses().swap_responses() == SCORED
    assert FAILED.swap_responses() == FAILED
    assert (CHOSEN.swap_responses().choice, CHOSEN.swap_responses().scores, CHOSEN.swap_responses().order) == (
        "B>A",
        (0.0, 1.0),
        (0, 1),
    )


def test_permuted_verdict_matches_the_permuted_comparison() -> None:
    comparison = Comparison.of("q", "a", "b", "c")
    scores = dict(zip(comparison.responses, (1.0, 2.0, 3.0), strict=True))
    order = (2, 0, 1)
    expected = Verdict(Status.OK, tuple(scores[r] for r in comparison.permute_responses(order).responses))
    assert Verdict(Status.OK, (1.0, 2.0, 3.0)).permute_responses(order).scores == expected.scores


@pytest.mark.parametrize(
    ("scores", "preferred"), [((3, 5), 1), ((5, 3), 0), ((4, 4), None), ((4,), None), ((1, 9, 9), None), ((1, 9, 2), 1)]
)
def test_only_a_strictly_highest_score_is_preferred(scores: tuple[float, ...], preferred: int | None) -> None:
    assert Verdict(Status.OK, scores).preferred == preferred


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_failed_judgment_has_a_reason_and_no_score(status: Status) -> None:
    failed = Judgment.from_failure("a", status, "why", model="m", provenance={"engine": "scripted"})
    assert (failed.scores, failed.expected_scores, failed.preferred) == (None, None, None)
    assert [(v.status, v.detail, v.scores) for v in failed.votes] == [(status, "why", None)]
    assert (failed.model, failed.provenance) == ("m", {"engine": "scripted"})


@pytest.mark.parametrize(
    "original",
    [
        Judgment(
            "a",
            Status.OK,
            (3.0, 5.0),
            (3.25, 4.5),
            "r",
            preferred=1,
            spread=(0.5, 0.25),
            disagreement=0.5,
            votes=(SCORED, FAILED),
            usage=Usage(9, 4, 2),
            model="m@1",
            provenance={"engine": "x"},
        ),
        Judgment("d", Status.OK, (1.0, 0.0), None, "r", preferred=0, choice="A>B", votes=(CHOSEN,)),
        Judgment("b", Status.OK, (4.0,), None, "half \ud83d pair"),
        Judgment.from_failure("c", Status.TIMEOUT, "no verdict within 5 s"),
    ],
    ids=lambda j: j.id,
)
def test_judgment_round_trips_through_json(original: Judgment) -> None:
    assert Judgment.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_json_holds_the_preferred_response() -> None:
    assert make_judgment(2, 7, preferred=1).to_json()["preferred"] == 1


def test_usage_adds_up() -> None:
    assert Usage(10, 4, 3) + Usage(1, 0, 2) == Usage(11, 4, 5)


@pytest.mark.parametrize("value", [Comparison.of("q", "a"), SCORED, Judgment("a", Status.OK, (3.0,), None, "r")])
def test_data_types_can_be_pickled(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


ERRORS = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.JudgeError)]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_can_be_pickled(error: type[Exception]) -> None:
    copy = pickle.loads(pickle.dumps(error("what to do")))
    assert type(copy) is error
    assert str(copy) == "what to do"


@pytest.mark.parametrize("error", [e for e in ERRORS if e is not errors.JudgeError])
def test_errors_inherit_from_matching_built_in_errors(error: type[Exception]) -> None:
    assert issubclass(error, (ValueError, ImportError, OSError, RuntimeError))
