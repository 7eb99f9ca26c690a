"""Distribution over the possible answers at the position of the judge's answer."""

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


def get_token_id(character: str) -> int:
    return encode(character)[0]


def to_logprobs(masses: Mapping[str, float]) -> dict[int, float]:
    return {get_token_id(c): math.log(p) if p else -math.inf for c, p in masses.items()}


def make_generation(text: str, *masses: Mapping[str, float]) -> Generation:
    """Make a generation with one token per character and probabilities at its first positions."""
    return Generation(text, tuple(encode(text)), "stop", tuple(map(to_logprobs, masses)))


class ProbeTable:
    """Probe function that looks up answers by prefix and records the probes."""

    def __init__(self, table: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.table = table or {}
        self.asked: list[str] = []

    async def __call__(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
        text = build_byte_tokenizer().decode(list(prefix))
        self.asked.append(text)
        return to_logprobs(self.table.get(text, {}))


def compute_chances(
    reply: Generation, answers: tuple[str, ...], index: int = 0, model: ProbeTable | None = None
) -> dict[str, float] | None:
    """Compute the distribution over answers at a character of a reply."""
    at = AnswerTokens(answers, encode).locate_answer(reply, index, build_byte_tokenizer().decode)
    if at is None:
        return None
    position, labels = at
    sampled, logprobs = reply.token_ids[position:], reply.logprobs[position:]
    return asyncio.run(compute_answer_distribution(labels, sampled, logprobs, model or ProbeTable()))


def compute_expected_score(
    reply: Generation, scale: str, index: int = 0, model: ProbeTable | None = None
) -> float | None:
    labels = Scale.parse(scale).labels
    distribution = compute_chances(reply, labels, index, model)
    return (
        None
        if distribution is None
        else compute_moments(distribution, {label: (float(label),) for label in labels})[0][0]
    )


def test_single_token_scores_give_the_exact_distribution() -> None:
    reply = make_generation("4</answer>", {"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.4, "5": 0.3})
    distribution = compute_chances(reply, Scale.parse("1-5").labels)
    assert distribution == pytest.approx({"1": 0.1, "2": 0.0, "3": 0.2, "4": 0.4, "5": 0.3})
    assert compute_expected_score(reply, "1-5") == pytest.approx(0.1 * 1 + 0.2 * 3 + 0.4 * 4 + 0.3 * 5)


def test_probability_off_the_scale_is_ignored() -> None:
    assert compute_expected_score(make_generation("4", {"3": 0.1, "4": 0.1}), "1-5") == pytest.approx(3.5)


def test_distribution_is_read_at_the_position_of_the_score() -> None:
    assert compute_expected_score(make_generation("<4", {"5": 1.0}, {"2": 0.5, "4": 0.5}), "1-5", 1) == pytest.approx(
        3.0
    )


def test_shared_first_token_of_1_and_10_is_split_by_the_next_token() -> None:
    model = ProbeTable()
    reply = make_generation("1</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.25})
    assert compute_expected_score(reply, "1-10", model=model) == pytest.approx(0.6 * (0.75 * 1 + 0.25 * 10) + 0.4 * 7)
    ten = make_generation("10</answer>", {"1": 0.6, "7": 0.4}, {"0": 0.9})
    assert compute_expected_score(ten, "1-10", model=model) == pytest.approx(0.6 * (0.1 * 1 + 0.9 * 10) + 0.4 * 7)
    assert model.asked == []


def test_branch_that_was_not_sampled_is_probed() -> None:
    model = ProbeTable({"1": {"0": 0.9}})
    reply = make_generation("7</answer>", {"1": 0.5, "7": 0.5})
    assert compute_expected_score(reply, "1-10", model=model) == pytest.approx(0.5 * (0.1 * 1 + 0.9 * 10) + 0.5 * 7)
    assert model.asked == ["1"]


def test_negligible_branch_counts_as_its_shortest_score_without_a_probe() -> None:
    model = ProbeTable({"1": {"0": 0.9}})
    assert compute_expected_score(
        make_generation("7</answer>", {"1": 0.001, "7": 0.999}), "1-10", model=model
    ) == pytest.approx(6.994)
    assert model.asked == []


def test_decimals_are_probed_after_the_point() -> None:
    model = ProbeTable({"4.": {"5": 1.0}, "5.": {"0": 1.0}})
    reply = make_generation("3.5</answer>", {"3": 0.7, "4": 0.2, "5": 0.1}, {".": 1.0}, {"5": 0.5, "6": 0.5})
    mean = 0.7 * (0.5 * 3.5 + 0.5 * 3.6) + 0.2 * 4.5 + 0.1 * 5.0
    assert compute_expected_score(reply, "1.0-5.0", model=model) == pytest.approx(mean)
    assert model.asked == ["4."]  # 5.0 is the only score that starts with 5


def test_decimal_scale_to_ten_is_split_branch_by_branch() -> None:
    model = ProbeTable({"1": {".": 0.5, "0": 0.5}, "1.": {"5": 1.0}})
    reply = make_generation("9.0</answer>", {"1": 0.5, "9": 0.5}, {".": 1.0}, {"0": 1.0})
    assert compute_expected_score(reply, "1.0-10.0", model=model) == pytest.approx(
        0.5 * 9 + 0.5 * (0.5 * 1.5 + 0.5 * 10)
    )


def test_certain_judge_has_its_written_score_as_expected_score() -> None:
    for label in Scale.parse("1.0-5.0").labels:
        reply = make_generation(f"{label}</answer>", *({c: 1.0} for c in label))
        assert compute_expected_score(reply, "1.0-5.0") == pytest.approx(float(label))


def test_options_have_a_distribution() -> None:
    reply = make_generation("[[A>B]]", {"[": 1.0}, {"[": 1.0}, {"A": 0.8, "B": 0.2}, {">": 0.75, "=": 0.25})
    model = ProbeTable({"[[A=B=": {"G": 0.5, "B": 0.5}})
    distribution = compute_chances(reply, OPTIONS, model=model)
    assert distribution == pytest.approx({"[[A>B]]": 0.6, "[[B>A]]": 0.2, "[[A=B=Good]]": 0.1, "[[A=B=Bad]]": 0.1})


def test_shared_beginning_of_the_answers_may_start_inside_a_token() -> None:
    pieces = {1: ">[[", 2: "A", 3: ">B", 4: "B", 5: ">A", 6: "]]</"}

    def decode(ids: object) -> str:
        return "".join(pieces[i] for i in ids)  # type: ignore[attr-defined]

    def tokens(text: str) -> list[int]:
        return {"A>B]]": [2, 3, 6], "B>A]]": [4, 5, 6]}.get(text, [9])

    reply = Generation(">[[A>B]]</", (1, 2, 3, 6), "stop", ({}, {2: math.log(0.7), 4: math.log(0.3)}, {}, {}))
    position, labels = AnswerTokens(OPTIONS[:2], tokens).locate_answer(reply, 1, decode) or (None, {})
    assert position == 1
    distribution = asyncio.run(
        compute_answer_distribution(labels, reply.token_ids[1:], reply.logprobs[1:], ProbeTable())
    )
    assert distribution == pytest.approx({"[[A>B]]": 0.7, "[[B>A]]": 0.3})


def test_space_may_belong_to_the_first_token_of_a_score() -> None:
    pieces = {1: "<answer>", 2: " 4", 3: " 5", 4: "</answer>"}

    def decode(ids: object) -> str:
        return "".join(pieces[i] for i in ids)  # type: ignore[attr-defined]

    def tokens(text: str) -> list[int]:
        return {" 4": [2], " 5": [3]}.get(text, [9, 9])

    reply = Generation("<answer> 4</answer>", (1, 2, 4), "stop", ({}, {2: math.log(0.25), 3: math.log(0.75)}, {}))
    position, labels = AnswerTokens(("4", "5"), tokens).locate_answer(reply, 9, decode) or (None, {})
    assert position == 1
    assert asyncio.run(compute_answer_distribution(labels, (2, 4), reply.logprobs[1:], ProbeTable())) == pytest.approx(
        {"4": 0.25, "5": 0.75}
    )


def test_without_logprobs_there_is_no_distribution() -> None:
    assert compute_expected_score(make_generation("4</answer>"), "1-5") is None
    assert compute_expected_score(make_generation("<4", {"5": 1.0}), "1-5", 1) is None


def test_without_probability_on_the_scale_there_is_no_distribution() -> None:
    assert compute_expected_score(make_generation("4", dict.fromkeys("12345", 0.0)), "1-5") is None
    assert compute_expected_score(make_generation("4", {}), "1-5") is None


def test_answer_with_unexpected_tokens_has_no_distribution() -> None:
    assert compute_expected_score(make_generation("x4", {"4": 1.0}), "1-5") is None


def test_logprobs_are_requested_for_answer_tokens_only() -> None:
    assert AnswerTokens(Scale.parse("1-5").labels, encode).token_ids == tuple(sorted(map(get_token_id, " 12345")))
    assert AnswerTokens(Scale.parse("1-10").labels, encode).token_ids == tuple(sorted(map(get_token_id, " 0123456789")))


def test_moments_are_mean_and_standard_deviation() -> None:
    means, deviations = compute_moments({"2": 0.5, "4": 0.5}, {"2": (2.0,), "4": (4.0,)})
    assert (means, deviations) == ((3.0,), (1.0,))
    means, _ = compute_moments({"A": 0.75, "B": 0.25}, {"A": (1.0, 0.0), "B": (0.0, 1.0)})
    assert means == (0.75, 0.25)


def test_token_is_found_by_its_first_character() -> None:
    reply = make_generation("<answer>4</answer>")
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
    reply = make_generation(text)
    position = find_token_position(reply, text.index("4"), build_byte_tokenizer().decode)
    assert position is not None
    assert reply.token_ids[position] == get_token_id("4")


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

    class RandomTable(ProbeTable):
        async def __call__(self, prefix: tuple[int, ...]) -> Mapping[int, float]:
            return to_logprobs(position())

    reply = make_generation(text, *(position() for _ in range(data.draw(st.integers(0, 5)))))
    distribution = compute_chances(reply, labels, model=RandomTable())
    if distribution is not None:
        assert sum(distribution.values()) == pytest.approx(1.0)
        assert low - 1e-9 <= (compute_expected_score(reply, scale, model=RandomTable()) or low) <= high + 1e-9
