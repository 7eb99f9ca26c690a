"""The vote loop through the judge: several votes and reading orders for one comparison."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Status, Usage
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia

Scorer = Callable[[list[str], int], Sequence[object]]
"""(responses in reading order, sample index) -> one answer per response."""

SINGLE = Comparison.of("Name a colour.", "blue")
PAIR = Comparison.of("Name a colour.", "blue", "seven")
BATCH = Comparison.of("Name a colour.", "a7", "b3", "c9", "d1", "e5", rubric="mllm_judge_batch")
IMAGES = Comparison.of("A cat.", "good", "poor", rubric="genai_image")


def parse_responses(prompt: str) -> list[str]:
    """Parse the responses from a prompt, in reading order."""
    user = prompt.rpartition("<|im_start|>user\n")[2]
    return re.findall(r"\n\n\[[^\]]*\]\n(.*?)(?=\n\n\[|<\|im_end\|>)", user, re.DOTALL)


def is_thinking(sampling: Sampling) -> bool:
    return sampling.stop == ("</think>",)


def make_engine(score: Scorer, **options: Any) -> ScriptedEngine:
    def script(prompt: str, sampling: Sampling) -> str:
        if is_thinking(sampling):
            return f"This is draw {sampling.sample_index}.</think>"
        return "".join(f"<answer>{s}</answer>" for s in score(parse_responses(prompt), sampling.sample_index))

    return ScriptedEngine(script, **options)


def make_engine_by_sample(*votes: Sequence[object]) -> ScriptedEngine:
    """Make an engine whose vote depends on the sample index only."""
    return make_engine(lambda _, sample_index: votes[sample_index])


def judge_one(engine: ScriptedEngine, comparison: Comparison = PAIR, **settings: Any) -> Judgment:
    return FlexJudge(engine, JudgeSettings(100, 60, **settings)).judge([comparison])[0]


def list_sample_indices(engine: ScriptedEngine) -> list[int]:
    """List the sample indices of all started replies."""
    return [sampling.sample_index for _, sampling in engine.requests if is_thinking(sampling)]


def score_by_content(reading_order: list[str], _: int) -> list[int]:
    """Score responses by their content, whatever their place."""
    return [int(digit[0]) if (digit := re.findall(r"\d", text)) else len(text) for text in reading_order]


def score_by_place(reading_order: list[str], _: int) -> list[int]:
    """Prefer the first response."""
    return [9 - k for k in range(len(reading_order))]


def test_score_is_the_mean_of_the_votes() -> None:
    judgment = judge_one(make_engine_by_sample([4], [6], [9]), SINGLE, votes=3)
    assert judgment.scores == judgment.expected_scores == (pytest.approx(19 / 3),)
    assert judgment.spread == (pytest.approx(mean([(s - 19 / 3) ** 2 for s in (4, 6, 9)]) ** 0.5),)
    assert [v.scores for v in judgment.votes] == [(4,), (6,), (9,)]
    assert [v.reasoning for v in judgment.votes] == [f"This is draw {k}." for k in range(3)]


def test_preference_is_the_majority_even_against_the_mean_scores() -> None:
    judgment = judge_one(make_engine_by_sample([6, 5], [1, 10], [6, 5]), votes=3)
    assert (judgment.preferred, judgment.scores) == (0, (pytest.approx(13 / 3), pytest.approx(20 / 3)))
    assert judgment.reasoning == "This is draw 0."


def test_equal_vote_counts_are_a_tie() -> None:
    judgment = judge_one(make_engine_by_sample([6, 5], [1, 10]), votes=2)
    assert (judgment.status, judgment.preferred) == (Status.OK, None)


def test_voting_with_confidence_1_ends_with_an_unbeatable_majority() -> None:
    engine = make_engine_by_sample(*[[9, 2]] * 15)
    assert judge_one(engine, votes=15, vote_confidence=1.0).preferred == 0
    assert list_sample_indices(engine) == list(range(8))


def test_voting_below_confidence_1_ends_earlier_unless_votes_differ() -> None:
    agreed, divided = make_engine_by_sample(*[[9, 2]] * 15), make_engine_by_sample(*[[9, 2], [2, 9]] * 7, [9, 2])
    assert [judge_one(engine, votes=15).preferred for engine in (agreed, divided)] == [0, 0]
    assert len(list_sample_indices(agreed)) < 8
    assert list_sample_indices(divided) == list(range(15))


def test_score_votes_are_cast_in_one_wave() -> None:
    for comparison, parse_responses in (SINGLE, 1), (BATCH, 5):
        engine = make_engine_by_sample(*[[9, 8, 7, 6, 5][:parse_responses]] * 7)
        judge_one(engine, comparison, votes=7)
        assert list_sample_indices(engine) == list(range(7))


@given(st.lists(st.sampled_from([(9, 2), (2, 9), (5, 5), ("none",)]), min_size=7, max_size=7))
@hypothesis_settings(max_examples=40, deadline=None)
def test_voting_with_confidence_1_decides_like_all_votes(votes: list[tuple[object, ...]]) -> None:
    judgment = judge_one(make_engine_by_sample(*votes), votes=7, vote_confidence=1.0, forced_answer=False)
    counts = Counter(vote for vote in votes if len(vote) == 2).most_common()
    if not counts:
        assert (judgment.status, judgment.scores) == (Status.UNPARSEABLE, None)
        return
    level = len(counts) > 1 and counts[0][1] == counts[1][1]
    assert judgment.preferred == (None if level else {(9, 2): 0, (2, 9): 1, (5, 5): None}[counts[0][0]])


def test_unscored_vote_is_ignored() -> None:
    judgment = judge_one(make_engine_by_sample(["none"], [8], ["11"], [6]), SINGLE, votes=4, forced_answer=False)
    assert (judgment.status, judgment.scores) == (Status.OK, (7,))
    assert [v.status for v in judgment.votes] == [Status.UNPARSEABLE, Status.OK, Status.UNPARSEABLE, Status.OK]
    assert judgment.reasoning == "This is draw 1."


def make_slow_engine(late: set[int], given_up: list[int], answer: str = "<answer>8</answer>") -> ScriptedEngine:
    """Make an engine that never finishes the samples in `late` and records cancelled ones."""

    async def script(_: str, sampling: Sampling) -> str:
        if sampling.sample_index in late:
            try:
                await asyncio.sleep(60)
            finally:
                given_up.append(sampling.sample_index)
        return "Hm.</think>" if is_thinking(sampling) else answer

    return ScriptedEngine(script)


def test_late_votes_are_dropped_and_the_others_count() -> None:
    given_up: list[int] = []
    judgment = judge_one(make_slow_engine({1, 3}, given_up), SINGLE, votes=4, deadline_s=0.5)
    assert (judgment.status, judgment.scores, sorted(given_up)) == (Status.OK, (8,), [1, 3])
    assert [v.status for v in judgment.votes] == [Status.OK, Status.TIMEOUT, Status.OK, Status.TIMEOUT]
    assert judgment.votes[1].detail == "no verdict within 0.5 s"


def test_timeout_ends_voting_without_another_wave() -> None:
    given_up: list[int] = []
    judgment = judge_one(make_slow_engine({0, 1, 2}, given_up), PAIR, votes=5, vote_confidence=1.0, deadline_s=0.1)
    assert (judgment.status, judgment.scores, sorted(given_up)) == (Status.TIMEOUT, None, [0, 1, 2])
    assert [v.order for v in judgment.votes] == [(0, 1)] * 3


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (EngineLostError("gone"), EngineLostError),
        (AssertionError("a bug"), AssertionError),
        (asyncio.CancelledError(), EngineLostError),  # cancelled by the engine itself
    ],
)
def test_error_in_one_vote_cancels_the_others(error: BaseException, raised: type[Exception]) -> None:
    given_up: list[int] = []
    inner = make_slow_engine({0, 2}, given_up).script

    async def script(prompt: str, sampling: Sampling) -> str:
        if sampling.sample_index == 1:
            await asyncio.sleep(0.01)
            raise error
        return str(await inner(prompt, sampling))  # type: ignore[misc]

    with pytest.raises(raised):
        judge_one(ScriptedEngine(script), SINGLE, votes=3)
    assert sorted(given_up) == [0, 2]


async def test_cancelled_judgment_leaves_nothing_running() -> None:
    given_up: list[int] = []
    engine = make_slow_engine({0, 1, 2}, given_up)
    judgment = asyncio.create_task(FlexJudge(engine, JudgeSettings(100, 60, votes=3)).ajudge(SINGLE))
    while len(engine.requests) < 3:
        await asyncio.sleep(0)
    judgment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judgment
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert sorted(given_up) == [0, 1, 2]


@pytest.mark.parametrize("order", ["as_given", "random", "both", "rotations"])
def test_no_two_votes_make_the_same_request(order: str) -> None:
    engine = make_engine(score_by_content)
    judge_one(engine, BATCH, votes=5, order=order)
    requests = [(prompt, sampling.sample_index, is_thinking(sampling)) for prompt, sampling in engine.requests]
    assert len(set(requests)) == len(requests) == 2 * 5 * {"both": 2, "rotations": 5}.get(order, 1)


class CountingEngine(ScriptedEngine):
    """Engine that sums its token counts, with a part of each prompt cached."""

    total = Usage()

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        plain = await super().generate(prompt_token_ids, sampling, media)
        generation = Generation(**(vars(plain) | {"cached_tokens": plain.prompt_tokens // 3}))
        self.total += generation.usage
        return generation


def test_usage_sums_all_votes_waves_and_orders() -> None:
    engine = CountingEngine(make_engine(score_by_content).script)
    judgment = judge_one(engine, votes=9, order="both", vote_confidence=1.0)
    assert len(judgment.votes) > 2
    assert judgment.usage == engine.total
    assert judgment.usage.cached_tokens > 0


@pytest.mark.parametrize("order", ["as_given", "random", "both", "rotations"])
@pytest.mark.parametrize("comparison", [SINGLE, PAIR, BATCH], ids=["single", "pair", "batch"])
def test_scores_are_in_the_comparisons_order(comparison: Comparison, order: str) -> None:
    judgment = judge_one(make_engine(score_by_content), comparison, votes=4, order=order)
    texts = [str(r) for r in comparison.responses]
    assert judgment.scores == judgment.expected_scores == tuple(score_by_content(texts, 0))
    assert {v.scores for v in judgment.votes} == {judgment.scores}
    assert judgment.disagreement in (None, 0.0)


@pytest.mark.parametrize("order", ["as_given", "random", "both", "rotations"])
def test_each_vote_records_its_reading_order(order: str) -> None:
    engine = make_engine(score_by_content)
    judgment = judge_one(engine, BATCH, votes=3, order=order)
    recorded = [[str(BATCH.responses[i]) for i in vote.order] for vote in judgment.votes]
    assert sorted(recorded) == sorted(
        parse_responses(prompt) for prompt, sampling in engine.requests if is_thinking(sampling)
    )


def test_random_orders_are_reproducible_from_seed_and_comparison() -> None:
    def orders(seed: int, question: str = "q") -> list[tuple[int, ...]]:
        comparison = Comparison.of(question, *"abcde")
        return [
            v.order
            for v in judge_one(make_engine(score_by_content), comparison, votes=6, order="random", seed=seed).votes
        ]

    assert orders(1) == orders(1)
    assert len({tuple(orders(1)), tuple(orders(2)), tuple(orders(1, "another"))}) == 3
    assert len(set(orders(1))) > 1


def test_judging_both_orders_reveals_position_bias() -> None:
    assert judge_one(make_engine(score_by_place)).preferred == 0
    judgment = judge_one(make_engine(score_by_place), votes=3, order="both")
    assert (judgment.preferred, judgment.disagreement, judgment.scores) == (None, 1.0, (8.5, 8.5))
    fair = judge_one(make_engine(score_by_content), votes=3, order="both")
    assert (fair.preferred, fair.disagreement) == (1, 0.0)


def test_rotations_put_every_response_in_every_place_once() -> None:
    judgment = judge_one(make_engine(score_by_place), BATCH, order="rotations")
    assert [sorted(places) for places in zip(*(v.order for v in judgment.votes), strict=True)] == [[0, 1, 2, 3, 4]] * 5
    assert (judgment.scores, judgment.preferred) == ((7,) * 5, None)


@pytest.mark.parametrize("order", ["as_given", "random", "both", "rotations"])
def test_option_refers_to_the_comparisons_order(order: str) -> None:
    engine = make_engine(lambda reading_order, _: ["[[A>B]]" if reading_order[0] == "good" else "[[B>A]]"])
    for comparison, choice, preferred in (IMAGES, "A>B", 0), (IMAGES.swap_responses(), "B>A", 1):
        judgment = judge_one(engine, comparison, votes=5, order=order)
        assert (judgment.choice, judgment.preferred) == (choice, preferred)
        assert {v.choice for v in judgment.votes} == {choice}


def test_contradicting_orders_choose_no_option() -> None:
    judgment = judge_one(make_engine(lambda *_: ["[[A>B]]"]), IMAGES, order="both")
    assert (judgment.choice, judgment.preferred, judgment.disagreement) == (None, None, 1.0)
    assert [v.choice for v in judgment.votes] == ["A>B", "B>A"]
