"""The distribution over the possible answers at the place where the judge wrote one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges.engines import Generation
from flex_judge.judges.engines.scripted import build_byte_tokenizer
from flex_judge.judges.protocol.expected_score import (
    AnswerTokens,
    compute_answer_distribution,
    compute_moments,
    find_token_position,
)
from flex_judge.judges.rubrics import Scale

OPTIONS = ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")


def encode(text: str) -> list[int]:
    return list(build_byte_tokenizer().encode(text, add_special_tokens=False))


def token(character: str) -> int:
    return encode(character)[0]


def log(masses: Mapping[str, float]) -> dict[int, float]:
    return {token(c): math.log(p) if p else -math.inf for c, p in masses.items()}


def generation(text: str, *masses: Mapping[str, float]) -> Generation:
    """A text, one token per character, with the probabilities of some characters at each of its first positions."""
    return Generation(text, tuple(encode(text)), "stop", tuple(map(log, masses)))


class Model:
    """Answers probes from a table of beginnings, and remembers them."""

    def __init__(self, table: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.table = table or {}
        self.asked: list[str] = []

    async def __call__(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
        text = build_byte_tokenizer().decode(list(prefix))
        self.asked.append(text)
        return log(self.table.get(text, {}))


def chances(
    reply: Generation, answers: tuple[str, ...], place: int = 0, model: Model | None = None
) -> dict[str, float] | None:
    """The distribution over the answers at a character of a reply."""
    at = AnswerTokens(answers, encode).locate_answer(reply, place, build_byte_tokenizer().decode)
    if at is None:
        return None
    position, labels = at
    taken, logprobs = reply.token_ids[position:], reply.logprobs[position:]
    return asyncio.run(compute_answer_distribution(labels, taken, logprobs, model or Model()))


def expected(reply: Generation, scale: str, place: int = 0, model: Model | None = None) -> float | None:
    labels = Scale.parse(scale).labels
    found = chances(reply, labels, place, model)
    return None if found is None else compute_moments(found, {label: (float(label),) for label in labels})[0][0]


def test_single_token_scores_give_the_exact_distribution() -> None:
    reply = generation("4</answer>", {"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.4, "5": 0.3})
    found = chances(reply, Scale.parse("1-5").labels)
    assert found == pytest.approx({"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.4, "5": 0.3})
    assert expected(reply, "1-5") == pytest.approx(0.1 * 1 + 0.2 * 3 + 0.4 * 4 + 0.3 * 5)


def test_probability_off_the_scale_is_ignored() -> None:
    assert expected(generation("4", {"3": 0.1, "4": 0.1}), "1-5") == pytest.approx(3.5)


def test_distribution_is_read_at_the_position_of_the_score() -> None:
    assert expected(generation("<4", {"5": 1.0}, {"2": 0.5, "4": 0.5}), "1-5", 1) == pytest.approx(3.0)


def test_shared_first_token_of_1_and_10_is_split_by_the_next_token() -> None:
    model = Model()
    reply = generation("1</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.25})
    assert expected(reply, "1-10", model=model) == pytest.approx(0.6 * (0.75 * 1 + 0.25 * 10) + 0.4 * 7)
    ten = generation("10</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.9})
    assert expected(ten, "1-10", model=model) == pytest.approx(0.6 * (0.1 * 1 + 0.9 * 10) + 0.4 * 7)
    assert model.asked == []


def test_branch_that_was_not_sampled_is_probed() -> None:
    model = Model({"1": {"0": 0.9}})
    reply = generation("7</answer>", {"1": 0.5, "7": 0.5})
    assert expected(reply, "1-10", model=model) == pytest.approx(0.5 * (0.1 * 1 + 0.9 * 10) + 0.5 * 7)
    assert model.asked == ["1"]


def test_negligible_branch_counts_as_its_shortest_score_without_a_probe() -> None:
    model = Model({"1": {"0": 0.9}})
    assert expected(generation("7</answer>", {"1": 0.001, "7": 0.999}), "1-10", model=model) == pytest.approx(6.994)
    assert model.asked == []


def test_decimals_are_probed_after_the_point() -> None:
    model = Model({"4.": {"5": 1.0}, "5.": {"0": 1.0}})
    reply = generation("3.5</answer>", {"3": 0.7, "4": 0.2, "5": 0.1}, {".": 1.0}, {"5": 0.5, "6": 0.5})
    mean = 0.7 * (0.5 * 3.5 + 0.5 * 3.6) + 0.2 * 4.5 + 0.1 * 5.0
    assert expected(reply, "1.0-5.0", model=model) == pytest.approx(mean)
    assert model.asked == ["4."]  # of the fives there is only 5.0


def test_decimal_scale_to_ten_is_split_branch_by_branch() -> None:
    model = Model({"1": {".": 0.5, "0": 0.5}, "1.": {"5": 1.0}})
    reply = generation("9.0</answer>", {"1": 0.5, "9": 0.5}, {".": 1.0}, {"0": 1.0})
    assert expected(reply, "1.0-10.0", model=model) == pytest.approx(0.5 * 9 + 0.5 * (0.5 * 1.5 + 0.5 * 10))


def test_certain_judge_has_its_written_score_as_expected_score() -> None:
    for label in Scale.parse("1.0-5.0").labels:
        reply = generation(f"{label}</answer>", *({c: 1.0} for c in label))
        assert expected(reply, "1.0-5.0") == pytest.approx(float(label))


def test_options_have_a_distribution() -> None:
    reply = generation("[[A>B]]", {"[": 1.0}, {"[": 1.0}, {"A": 0.8, "B": 0.2}, {">": 0.75, "=": 0.25})
    model = Model({"[[A=B=": {"G": 0.5, "B": 0.5}})
    found = chances(reply, OPTIONS, model=model)
    assert found == pytest.approx({"[[A>B]]": 0.6, "[[B>A]]": 0.2, "[[A=B=Good]]": 0.1, "[[A=B=Bad]]": 0.1})


def test_shared_beginning_of_the_answers_may_start_inside_a_token() -> None:
    pieces = {1: ">[[", 2: "A", 3: ">B", 4: "B", 5: ">A", 6: "]]</"}

    def decode(ids: object) -> str:
        return "".join(pieces[i] for i in ids)  # type: ignore[attr-defined]

    def tokens(text: str) -> list[int]:
        return {"A>B]]": [2, 3, 6], "B>A]]": [4, 5, 6]}.get(text, [9])

    reply = Generation(">[[A>B]]</", (1, 2, 3, 6), "stop", ({}, {2: math.log(0.7), 4: math.log(0.3)}, {}, {}))
    position, labels = AnswerTokens(OPTIONS[:2], tokens).locate_answer(reply, 1, decode) or (None, {})
    assert position == 1
    found = asyncio.run(compute_answer_distribution(labels, reply.token_ids[1:], reply.logprobs[1:], Model()))
    assert found == pytest.approx({"[[A>B]]": 0.7, "[[B>A]]": 0.3})


def test_space_may_belong_to_the_first_token_of_a_score() -> None:
    pieces = {1: "<answer>", 2: " 4", 3: " 5", 4: "</answer>"}

    def decode(ids: object) -> str:
        return "".join(pieces[i] for i in ids)  # type: ignore[attr-defined]

    def tokens(text: str) -> list[int]:
        return {" 4": [2], " 5": [3]}.get(text, [9, 9])

    reply = Generation("<answer> 4</answer>", (1, 2, 4), "stop", ({}, {2: math.log(0.25), 3: math.log(0.75)}, {}))
    position, labels = AnswerTokens(("4", "5"), tokens).locate_answer(reply, 9, decode) or (None, {})
    assert position == 1
    assert asyncio.run(compute_answer_distribution(labels, (2, 4), reply.logprobs[1:], Model())) == pytest.approx(
        {"4": 0.25, "5": 0.75}
    )


def test_without_logprobs_there_is_no_distribution() -> None:
    assert expected(generation("4</answer>"), "1-5") is None
    assert expected(generation("<4", {"5": 1.0}), "1-5", 1) is None


def test_without_probability_on_the_scale_there_is_no_distribution() -> None:
    assert expected(generation("4", dict.fromkeys("12345", 0.0)), "1-5") is None
    assert expected(generation("4", {}), "1-5") is None


def test_answer_with_unexpected_tokens_has_no_distribution() -> None:
    assert expected(generation("x4", {"4": 1.0}), "1-5") is None


def test_logprobs_are_requested_for_answer_tokens_only() -> None:
    assert AnswerTokens(Scale.parse("1-5").labels, encode).token_ids == tuple(sorted(map(token, " 12345")))
    assert AnswerTokens(Scale.parse("1-10").labels, encode).token_ids == tuple(sorted(map(token, " 0123456789")))


def test_moments_are_mean_and_standard_deviation() -> None:
    means, deviations = compute_moments({"2": 0.5, "4": 0.5}, {"2": (2.0,), "4": (4.0,)})
    assert (means, deviations) == ((3.0,), (1.0,))
    means, _ = compute_moments({"A": 0.75, "B": 0.25}, {"A": (1.0, 0.0), "B": (0.0, 1.0)})
    assert means == (0.75, 0.25)


def test_token_is_found_by_its_first_character() -> None:
    reply = generation("<answer>4</answer>")
    assert find_token_position(reply, 8, build_byte_tokenizer().decode) == 8
    assert find_token_position(reply, -1, build_byte_tokenizer().decode) is None
    assert find_token_position(reply, 99, build_byte_tokenizer().decode) is None


def test_character_inside_a_token_starts_no_token() -> None:
    def decode(ids: object) -> str:
        return "".join({1: "<answer", 2: "> 4", 3: "</answer>"}[i] for i in ids)  # type: ignore[attr-defined]

    reply = Generation("<answer> 4</answer>", (1, 2, 3), "stop")
    assert [find_token_position(reply, i, decode) for i in (0, 7, 9, 10)] == [0, 1, None, 2]


@pytest.mark.parametrize("space", ["\u00a0", "\u2003"])
def test_score_after_a_multi_token_character_is_found(space: str) -> None:
    text = f"<answer>{space}4</answer>"
    reply = generation(text)
    position = find_token_position(reply, text.index("4"), build_byte_tokenizer().decode)
    assert position is not None
    assert reply.token_ids[position] == token("4")


masses = st.one_of(st.just(0.0), st.floats(1e-9, 1.0))


@settings(deadline=None)
@given(st.sampled_from(["1-5", "1-10", "0-100", "1.0-5.0", "1.0-10.0"]), st.data())
def test_distribution_sums_to_one_and_its_mean_is_on_the_scale(scale: str, data: st.DataObject) -> None:
    low, high = map(float, scale.split("-"))
    labels = Scale.parse(scale).labels
    text = data.draw(st.sampled_from(labels)) + "</answer>"

    def position() -> dict[str, float]:
        raw = {c: data.draw(masses) for c in ".0123456789"}
        total = max(1.0, sum(raw.values()))
        return {c: p / total for c, p in raw.items()}

    class Drawn(Model):
        async def __call__(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
            return log(position())

    reply = generation(text, *(position() for _ in range(data.draw(st.integers(0, 5)))))
    found = chances(reply, labels, model=Drawn())
    if found is not None:
        assert sum(found.values()) == pytest.approx(1.0)
        assert low - 1e-9 <= (expected(reply, scale, model=Drawn()) or low) <= high + 1e-9
