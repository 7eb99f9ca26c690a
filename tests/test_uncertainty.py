"""The expected score under the judge's own distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.engines import Generation
from judges.engines.scripted import byte_tokenizer
from judges.rubrics import Scale
from judges.uncertainty import Labels, expected_score, logprob_token_ids, score_labels, token_at


def encode(text: str) -> list[int]:
    return list(byte_tokenizer().encode(text, add_special_tokens=False))


def token(character: str) -> int:
    return encode(character)[0]


def labels_of(scale: str) -> Labels:
    return score_labels(Scale.parse(scale), encode)


def generation(text: str, *masses: Mapping[str, float]) -> Generation:
    """A text, one token per character, with the probabilities of some characters at each of its first positions."""
    logprobs = tuple({token(c): math.log(p) if p else -math.inf for c, p in at.items()} for at in masses)
    return Generation(text, tuple(encode(text)), "stop", logprobs)


def test_scores_with_tokens_of_their_own_give_the_exact_mean() -> None:
    reply = generation("4</answer>", {"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.4, "5": 0.3})
    assert expected_score(reply, 0, labels_of("1-5")) == pytest.approx(0.1 * 1 + 0.2 * 3 + 0.4 * 4 + 0.3 * 5)


def test_what_is_not_on_the_scale_counts_for_nothing() -> None:
    reply = generation("4", {"3": 0.1, "4": 0.1})
    assert expected_score(reply, 0, labels_of("1-5")) == pytest.approx(3.5)


def test_the_position_of_the_score_is_the_one_that_counts() -> None:
    reply = generation("<4", {"5": 1.0}, {"2": 0.5, "4": 0.5})
    assert expected_score(reply, 1, labels_of("1-5")) == pytest.approx(3.0)


def test_one_and_ten_share_a_first_token_which_is_divided_by_what_follows() -> None:
    reply = generation("1</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.25})
    assert expected_score(reply, 0, labels_of("1-10")) == pytest.approx(0.6 * (0.75 * 1 + 0.25 * 10) + 0.4 * 7)
    ten = generation("10</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.9})
    assert expected_score(ten, 0, labels_of("1-10")) == pytest.approx(0.6 * (0.1 * 1 + 0.9 * 10) + 0.4 * 7)


def test_a_way_that_the_judge_did_not_take_counts_as_its_shortest_score() -> None:
    reply = generation("7</answer>", {"1": 0.5, "7": 0.5}, {"0": 0.9})
    assert expected_score(reply, 0, labels_of("1-10")) == pytest.approx(0.5 * 1 + 0.5 * 7)


def test_decimals_are_divided_where_the_judge_went_and_averaged_where_it_did_not() -> None:
    reply = generation("3.5</answer>", {"3": 0.7, "4": 0.2, "5": 0.1}, {".": 1.0}, {"5": 0.5, "6": 0.5})
    mean = 0.7 * (0.5 * 3.5 + 0.5 * 3.6) + 0.2 * 4.45 + 0.1 * 5.0
    assert expected_score(reply, 0, labels_of("1.0-5.0")) == pytest.approx(mean)


def test_a_certain_judge_is_expected_to_mean_what_it_wrote() -> None:
    for label in Scale.parse("1.0-5.0").labels:
        reply = generation(f"{label}</answer>", *({c: 1.0} for c in label))
        assert expected_score(reply, 0, labels_of("1.0-5.0")) == pytest.approx(float(label))


def test_without_log_probabilities_nothing_is_expected() -> None:
    assert expected_score(generation("4</answer>"), 0, labels_of("1-5")) is None
    assert expected_score(generation("<4", {"5": 1.0}), 1, labels_of("1-5")) is None


def test_where_nothing_is_on_the_scale_nothing_is_expected() -> None:
    assert expected_score(generation("4", dict.fromkeys("12345", 0.0)), 0, labels_of("1-5")) is None
    assert expected_score(generation("4", {}), 0, labels_of("1-5")) is None


def test_the_engine_is_asked_for_the_tokens_of_the_scale_and_no_others() -> None:
    assert logprob_token_ids(labels_of("1-5")) == tuple(sorted(map(token, "12345")))
    assert logprob_token_ids(labels_of("1-10")) == tuple(sorted(map(token, "0123456789")))
    assert logprob_token_ids(labels_of("1.0-5.0")) == tuple(sorted(map(token, ".0123456789")))


def test_a_token_is_found_by_the_character_it_begins_at() -> None:
    reply = generation("<answer>4</answer>")
    assert token_at(reply, 8, byte_tokenizer().decode) == 8
    assert token_at(reply, -1, byte_tokenizer().decode) is None
    assert token_at(reply, 99, byte_tokenizer().decode) is None


def test_a_character_within_a_token_begins_none() -> None:
    def decode(ids: object) -> str:
        return "".join({1: "<answer", 2: "> 4", 3: "</answer>"}[i] for i in ids)  # type: ignore[attr-defined]

    reply = Generation("<answer> 4</answer>", (1, 2, 3), "stop")
    assert [token_at(reply, i, decode) for i in (0, 7, 9, 10)] == [0, 1, None, 2]


@pytest.mark.parametrize("space", ["\u00a0", "\u2003"])
def test_a_score_after_a_character_of_several_tokens_is_found(space: str) -> None:
    text = f"<answer>{space}4</answer>"
    reply = generation(text)
    position = token_at(reply, text.index("4"), byte_tokenizer().decode)
    assert position is not None
    assert reply.token_ids[position] == token("4")


chances = st.one_of(st.just(0.0), st.floats(1e-9, 1.0))


@settings(deadline=None)
@given(st.sampled_from(["1-5", "1-10", "0-100", "1.0-5.0"]), st.data())
def test_the_expected_score_never_leaves_the_scale(scale: str, data: st.DataObject) -> None:
    low, high = map(float, scale.split("-"))
    text = data.draw(st.sampled_from(Scale.parse(scale).labels)) + "</answer>"
    masses = []
    for _ in range(data.draw(st.integers(0, 5))):
        raw = {c: data.draw(chances) for c in ".0123456789"}
        total = max(1.0, sum(raw.values()))
        masses.append({c: p / total for c, p in raw.items()})
    expected = expected_score(generation(text, *masses), 0, labels_of(scale))
    assert expected is None or low - 1e-9 <= expected <= high + 1e-9
