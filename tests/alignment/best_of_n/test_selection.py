"""Best-of-N selection by every method: the chosen answer, the number of judgments and the ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from grading import RecordingJudge
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.best_of_n.selection import METHODS, POINTWISE_METHODS, Selection, SelectionSpec, select_best
from flex_judge.judges import Comparison, Judgment, Message, Status, Usage, UsageError, Verdict
from flex_judge.judges.types import content_to_text

PROMPT = (Message("user", "How much?"),)
COMPARING_METHODS = tuple(m for m in METHODS if m not in POINTWISE_METHODS)


async def run_selection(
    responses: Sequence[str], method: str = "pointwise", ask: object = None, **spec: object
) -> Selection:
    selection_spec = SelectionSpec(method, **spec)  # type: ignore[arg-type]
    return await select_best(PROMPT, responses, selection_spec, ask or RecordingJudge(), id="q")  # type: ignore[arg-type]


def make_answers(*scores: int) -> list[str]:
    """Make answers that the judge of `grading` gives these scores."""
    return [f"worth {score}" for score in scores]


def make_ask(score: Callable[[str], tuple[float, float] | None]) -> Callable[[Comparison], object]:
    """Make a judge from a function text -> (written, expected) score; None fails the whole comparison."""

    async def ask(comparison: Comparison) -> Judgment:
        pairs = [score(content_to_text(response)) for response in comparison.responses]
        if None in pairs:
            return Judgment.from_failure(comparison.id, Status.UNPARSEABLE, "no <answer>", usage=Usage(10, 0, 1))
        written, expected = (tuple(scores) for scores in zip(*filter(None, pairs), strict=True))
        best = written.index(max(written)) if len(written) > 1 and written.count(max(written)) == 1 else None
        votes = (Verdict(Status.OK, written),)
        return Judgment(comparison.id, Status.OK, written, expected, "", best, votes=votes, usage=Usage(10, 0, 5))

    return ask


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_chooses_and_ranks_the_best_first(method: str) -> None:
    selection = await run_selection(make_answers(3, 5, 9, 2, 7), method)
    assert (selection.best, selection.tied, selection.ranking[0]) == (2, 1, 2)
    assert selection.candidates[2].status == Status.OK
    assert selection.usage == sum((j.usage for j in selection.judgments), Usage())


@pytest.mark.parametrize(
    ("method", "count"),
    [("pointwise", 5), ("listwise", 1), ("round_robin", 10), ("circular", 5), ("swiss", 8), ("knockout", 4)],
)
async def test_number_of_judgments_per_method(method: str, count: int) -> None:
    ask = RecordingJudge()
    selection = await run_selection(make_answers(3, 5, 9, 2, 7), method, ask)
    assert len(selection.judgments) == len(ask.comparisons) == count


@pytest.mark.parametrize("method", METHODS)
async def test_repeated_run_gives_the_same_result_and_ids(method: str) -> None:
    first, again = [await run_selection(make_answers(3, 5, 9, 2, 7, 7), method) for _ in range(2)]
    assert first == again
    ids = [judgment.id for judgment in first.judgments]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("q/") for name in ids)


@pytest.mark.parametrize("method", ["pointwise", "knockout", "round_robin", "circular", "swiss"])
async def test_ids_and_judged_name_the_responses_of_a_judgment(method: str) -> None:
    ask = RecordingJudge()
    responses = make_answers(3, 3, 9, 2)
    selection = await run_selection(responses, method, ask)
    texts_by_id = {c.id: tuple(map(content_to_text, c.responses)) for c in ask.comparisons}
    for judgment, members in zip(selection.judgments, selection.judged, strict=True):
        assert judgment.id == f"q/{'-'.join(map(str, members))}"
        assert texts_by_id[judgment.id] == tuple(responses[m] for m in members)


@pytest.mark.parametrize("method", METHODS)
async def test_chooses_nothing_without_a_verdict(method: str) -> None:
    selection = await run_selection(["mumble a", "mumble b", "mumble c"], method)
    assert (selection.best, selection.tied, selection.ranking) == (None, 0, ())
    assert selection.scores == selection.expected_scores == selection.win_rates == (None,) * 3
    assert {c.status for c in selection.candidates} == {Status.UNPARSEABLE}


@pytest.mark.parametrize("method", ["pointwise", "halving", "round_robin"])
async def test_answer_without_a_verdict_never_wins(method: str) -> None:
    for seed in range(4):
        selection = await run_selection(["mumble", "worth 1", "worth 2", "mumble too"], method, seed=seed)
        assert (selection.best, selection.ranking) == (2, (2, 1))
        assert selection.candidates[0].value is None
        assert selection.scores[0] is None


async def test_failed_final_goes_to_the_answer_that_has_won_before() -> None:
    for seed in range(6):
        selection = await run_selection(["mumble", "worth 1", "worth 2"], "knockout", seed=seed)
        scored = [members for j, members in zip(selection.judgments, selection.judged, strict=True) if j.scores]
        assert selection.best == (2 if scored else None)
        assert 0 not in selection.ranking


@pytest.mark.parametrize("method", POINTWISE_METHODS)
async def test_identical_answers_are_judged_and_billed_once(method: str) -> None:
    ask = RecordingJudge()
    selection = await run_selection(make_answers(4, 8, 4, 8, 4), method, ask)
    assert sorted(ask.texts) == [("worth 4",), ("worth 8",)]
    assert selection.scores == (4, 8, 4, 8, 4)
    assert (selection.best, selection.tied) == (1, 1)
    assert selection.ranking == (1, 3, 0, 2, 4)
    usages = [candidate.usage for candidate in selection.candidates]
    assert usages[2:] == [Usage()] * 3
    assert sum(usages, Usage()) == selection.usage != Usage()


@pytest.mark.parametrize("method", COMPARING_METHODS)
async def test_identical_answers_tie_without_a_judgment(method: str) -> None:
    selection = await run_selection(make_answers(4, 4, 4), method)
    assert (selection.best, selection.tied, selection.judgments) == (0, 1, ())


async def test_pointwise_ranks_by_expected_score() -> None:
    scores = {"a": (5.0, 4.1), "b": (4.0, 4.6), "c": (4.0, 3.9)}
    selection = await run_selection("abc", ask=make_ask(lambda text: scores[text]))
    assert (selection.best, selection.ranking) == (1, (1, 0, 2))
    assert (selection.scores, selection.expected_scores) == ((5.0, 4.0, 4.0), (4.1, 4.6, 3.9))


@pytest.mark.parametrize("method", METHODS)
async def test_ties_are_broken_by_seed_whatever_the_order(method: str) -> None:
    ask = make_ask(lambda text: (2.0, 2.0) if text == "low" else (7.0, 7.0))
    winners = set()
    for seed in range(12):
        texts = ["one", "two", "three", "low"]
        winners_of_seed = set()
        for _ in range(3):
            Random(seed).shuffle(texts)
            selection = await run_selection(texts, method, ask, seed=seed)
            assert selection.best is not None
            winners_of_seed.add(texts[selection.best])
            # In a knock-out and in halving, the third of the tied answers is dropped by the random order. In a circle
            # and in a Swiss tournament, it does not meet the low answer, or meets it less often.
            assert selection.tied == (2 if method in ("circular", "swiss", "knockout", "halving") else 3)
        assert len(winners_of_seed) == 1
        winners |= winners_of_seed
    assert winners == {"one", "two", "three"}


async def test_prompts_break_ties_independently_with_the_same_seed() -> None:
    ask = make_ask(lambda _: (7.0, 7.0))
    best = [(await select_best(PROMPT, list("abcd"), SelectionSpec(), ask, id=str(i))).best for i in range(30)]  # type: ignore[arg-type]
    assert set(best) == {0, 1, 2, 3}


@pytest.mark.parametrize("method", ["circular", "swiss", "knockout"])
async def test_seed_decides_the_pairings(method: str) -> None:
    first_rounds = set()
    for seed in range(10):
        ask = RecordingJudge()
        await run_selection(make_answers(1, 2, 3, 4, 5, 6, 7, 8), method, ask, seed=seed)
        first_rounds.add(frozenset(frozenset(pair) for pair in ask.texts[:4]))
    assert len(first_rounds) > 5


async def test_empty_group_makes_no_request() -> None:
    ask = RecordingJudge()
    assert await run_selection([], "round_robin", ask) == Selection(None, 0, (), (), (), ())
    assert not ask.comparisons


@pytest.mark.parametrize("method", POINTWISE_METHODS)
async def test_pointwise_methods_judge_a_single_answer(method: str) -> None:
    selection = await run_selection(make_answers(4), method)
    assert (selection.best, selection.tied, selection.scores, selection.win_rates) == (0, 1, (4.0,), (None,))
    assert (await run_selection(["mumble"], method)).best is None


@pytest.mark.parametrize("method", COMPARING_METHODS)
async def test_comparing_methods_reject_a_single_answer(method: str) -> None:
    with pytest.raises(UsageError, match=f"got 1, but the method '{method}' compares responses; use 'pointwise'"):
        await run_selection(make_answers(4), method)


@pytest.mark.parametrize(
    ("method", "rubric", "problem"),
    [("pointwise", "mllm_judge_pair", "made for 2"), ("halving", "genai_image", "made for 2"),
     ("round_robin", "mllm_judge_batch", "made for 3 or more"), ("listwise", "mllm_judge_pair", "not 3")],
)  # fmt: skip
async def test_rejects_a_rubric_that_does_not_fit_before_any_request(method: str, rubric: str, problem: str) -> None:
    ask = RecordingJudge()
    with pytest.raises(UsageError, match=problem):
        await run_selection(make_answers(1, 2, 3), method, ask, rubric=rubric)
    assert not ask.comparisons


@pytest.mark.parametrize(
    ("setting", "value"),
    [("method", "guess"), ("votes", 0), ("budget", 0.0), ("budget", 1.5), ("confidence", 0.4), ("confidence", 1.1)],
)
def test_names_an_invalid_setting(setting: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{setting} must be"):
        SelectionSpec(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
async def test_raises_errors_of_the_judge_unchanged(method: str) -> None:
    async def ask(comparison: Comparison) -> Judgment:
        raise UsageError(f"{comparison.id}: no")

    with pytest.raises(UsageError, match="q/"):
        await run_selection(make_answers(1, 2, 3), method, ask)


@pytest.mark.parametrize("method", POINTWISE_METHODS)
async def test_answers_that_look_the_same_are_judged_once_whatever_their_order(method: str) -> None:
    responses = ["worth 9", "\u200bworth 9", "worth 2", "worth 9 \n"]
    judged = set()
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        ask = RecordingJudge()
        selection = await run_selection([responses[i] for i in order], method, ask)
        texts = {content_to_text(comparison.responses[0]) for comparison in ask.comparisons}
        assert len(texts) == 2
        judged |= texts
        assert selection.tied == 1
        assert selection.scores == tuple(2 if i == 2 else 9 for i in order)
    assert len(judged) == 2


answers = st.lists(st.sampled_from([*make_answers(1, 2, 3, 9), "mumble", "mumble too"]), min_size=2, max_size=7)


@settings(deadline=None, max_examples=60)
@given(answers, st.sampled_from(METHODS), st.integers(0, 3))
async def test_selection_is_consistent(responses: list[str], method: str, seed: int) -> None:
    selection = await run_selection(responses, method, seed=seed)
    assert (selection.best is None) == (not selection.ranking) == (selection.tied == 0)
    assert len(set(selection.ranking)) == len(selection.ranking)
    assert len(selection.candidates) == len(responses)
    for i, candidate in enumerate(selection.candidates):
        if candidate.value is None:
            assert i not in selection.ranking
        elif method in POINTWISE_METHODS:
            assert i in selection.ranking
            assert candidate.score == float(responses[i].removeprefix("worth "))
    if selection.best is not None and method in POINTWISE_METHODS:
        assert selection.scores[selection.best] == max(s for s in selection.scores if s is not None)
