"""Best-of-N by every method: who is chosen, what it costs, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from grading import Asked
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.best_of_n.selection import METHODS, POINTWISE_METHODS, Selection, SelectionSpec, select_best
from flex_judge.judges import Comparison, Judgment, Message, Status, Usage, UsageError, Verdict
from flex_judge.judges.types import content_to_text

PROMPT = (Message("user", "How much?"),)
COMPARING = tuple(m for m in METHODS if m not in POINTWISE_METHODS)


async def chosen(responses: Sequence[str], method: str = "pointwise", ask: object = None, **spec: object) -> Selection:
    spec_ = SelectionSpec(method, **spec)  # type: ignore[arg-type]
    return await select_best(PROMPT, responses, spec_, ask or Asked(), id="q")  # type: ignore[arg-type]


def worth(*scores: int) -> list[str]:
    return [f"worth {score}" for score in scores]


def judging(score: Callable[[str], tuple[float, float] | None]) -> Callable[[Comparison], object]:
    """An ask that knows (written, expected) of each text; None is a failure of the whole comparison."""

    async def ask(comparison: Comparison) -> Judgment:
        known = [score(content_to_text(response)) for response in comparison.responses]
        if None in known:
            return Judgment.from_failure(comparison.id, Status.UNPARSEABLE, "no <answer>", usage=Usage(10, 0, 1))
        pairs = [pair for pair in known if pair is not None]
        written = tuple(w for w, _ in pairs)
        best = written.index(max(written)) if len(written) > 1 and written.count(max(written)) == 1 else None
        expected = tuple(e for _, e in pairs)
        votes = (Verdict(Status.OK, written),)
        return Judgment(comparison.id, Status.OK, written, expected, "", best, votes=votes, usage=Usage(10, 0, 5))

    return ask


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_chooses_the_best_and_puts_it_first(method: str) -> None:
    selection = await chosen(worth(3, 5, 9, 2, 7), method)
    assert (selection.best, selection.tied, selection.ranking[0]) == (2, 1, 2)
    assert selection.candidates[2].status == Status.OK
    assert selection.usage == sum((j.usage for j in selection.judgments), Usage())


@pytest.mark.parametrize(("method", "count"), [("pointwise", 5), ("listwise", 1), ("round_robin", 10), ("knockout", 4)])
async def test_a_method_asks_for_as_many_judgments_as_it_says(method: str, count: int) -> None:
    ask = Asked()
    selection = await chosen(worth(3, 5, 9, 2, 7), method, ask)
    assert len(selection.judgments) == len(ask.comparisons) == count


@pytest.mark.parametrize("method", METHODS)
async def test_a_run_that_is_repeated_gives_the_same_to_the_last_id(method: str) -> None:
    first, again = [await chosen(worth(3, 5, 9, 2, 7, 7), method) for _ in range(2)]
    assert first == again
    ids = [judgment.id for judgment in first.judgments]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("q/") for name in ids)


@pytest.mark.parametrize("method", ["pointwise", "knockout", "round_robin"])
async def test_ids_and_judged_name_the_responses_that_a_judgment_is_about(method: str) -> None:
    ask = Asked()
    responses = worth(3, 3, 9, 2)
    selection = await chosen(responses, method, ask)
    shown = {c.id: tuple(map(content_to_text, c.responses)) for c in ask.comparisons}
    for judgment, members in zip(selection.judgments, selection.judged, strict=True):
        assert judgment.id == f"q/{'-'.join(map(str, members))}"
        assert shown[judgment.id] == tuple(responses[m] for m in members)


@pytest.mark.parametrize("method", METHODS)
async def test_where_nothing_has_a_verdict_nothing_is_chosen(method: str) -> None:
    selection = await chosen(["mumble a", "mumble b", "mumble c"], method)
    assert (selection.best, selection.tied, selection.ranking) == (None, 0, ())
    assert selection.scores == selection.expected_scores == selection.win_rates == (None,) * 3
    assert {c.status for c in selection.candidates} == {Status.UNPARSEABLE}


@pytest.mark.parametrize("method", ["pointwise", "halving", "round_robin"])
async def test_an_answer_without_a_verdict_is_never_chosen_while_another_has_one(method: str) -> None:
    for seed in range(4):
        selection = await chosen(["mumble", "worth 1", "worth 2", "mumble too"], method, seed=seed)
        assert (selection.best, selection.ranking) == (2, (2, 1))
        assert selection.candidates[0].value is None
        assert selection.scores[0] is None


async def test_of_a_final_without_a_verdict_the_one_that_has_won_before_is_chosen() -> None:
    for seed in range(6):
        selection = await chosen(["mumble", "worth 1", "worth 2"], "knockout", seed=seed)
        scored = [members for j, members in zip(selection.judgments, selection.judged, strict=True) if j.scores]
        assert selection.best == (2 if scored else None)
        assert 0 not in selection.ranking


@pytest.mark.parametrize("method", POINTWISE_METHODS)
async def test_the_same_answer_is_judged_once_and_its_usage_counts_once(method: str) -> None:
    ask = Asked()
    selection = await chosen(worth(4, 8, 4, 8, 4), method, ask)
    assert sorted(ask.texts) == [("worth 4",), ("worth 8",)]
    assert selection.scores == (4, 8, 4, 8, 4)
    assert (selection.best, selection.tied) == (1, 1)
    assert selection.ranking == (1, 3, 0, 2, 4)
    shares = [candidate.usage for candidate in selection.candidates]
    assert shares[2:] == [Usage()] * 3
    assert sum(shares, Usage()) == selection.usage != Usage()


@pytest.mark.parametrize("method", COMPARING)
async def test_copies_of_one_answer_are_a_tie_that_nobody_is_asked_about(method: str) -> None:
    selection = await chosen(worth(4, 4, 4), method)
    assert (selection.best, selection.tied, selection.judgments) == (0, 1, ())


async def test_pointwise_goes_by_the_expected_score() -> None:
    known = {"a": (5.0, 4.1), "b": (4.0, 4.6), "c": (4.0, 3.9)}
    selection = await chosen("abc", ask=judging(lambda text: known[text]))
    assert (selection.best, selection.ranking) == (1, (1, 0, 2))
    assert (selection.scores, selection.expected_scores) == ((5.0, 4.0, 4.0), (4.1, 4.6, 3.9))


@pytest.mark.parametrize("method", METHODS)
async def test_what_is_level_is_drawn_by_the_seed_wherever_it_stands(method: str) -> None:
    ask = judging(lambda text: (2.0, 2.0) if text == "low" else (7.0, 7.0))
    winners = set()
    for seed in range(12):
        texts = ["one", "two", "three", "low"]
        found = set()
        for _ in range(3):
            Random(seed).shuffle(texts)
            selection = await chosen(texts, method, ask, seed=seed)
            assert selection.best is not None
            found.add(texts[selection.best])
            assert selection.tied == (2 if method in ("knockout", "halving") else 3)  # a third was left out by the draw
        assert len(found) == 1
        winners |= found
    assert winners == {"one", "two", "three"}


async def test_prompts_draw_differently_with_the_same_seed() -> None:
    ask = judging(lambda _: (7.0, 7.0))
    best = [(await select_best(PROMPT, list("abcd"), SelectionSpec(), ask, id=str(i))).best for i in range(30)]  # type: ignore[arg-type]
    assert set(best) == {0, 1, 2, 3}


async def test_the_seed_decides_who_meets_whom_in_a_knockout() -> None:
    met = set()
    for seed in range(10):
        ask = Asked()
        await chosen(worth(1, 2, 3, 4, 5, 6, 7, 8), "knockout", ask, seed=seed)
        met.add(frozenset(frozenset(pair) for pair in ask.texts[:4]))
    assert len(met) > 5


async def test_of_no_answers_none_is_chosen_and_nobody_is_asked() -> None:
    ask = Asked()
    assert await chosen([], "round_robin", ask) == Selection(None, 0, (), (), (), ())
    assert not ask.comparisons


@pytest.mark.parametrize("method", POINTWISE_METHODS)
async def test_the_only_answer_is_judged_all_the_same(method: str) -> None:
    selection = await chosen(worth(4), method)
    assert (selection.best, selection.tied, selection.scores, selection.win_rates) == (0, 1, (4.0,), (None,))
    assert (await chosen(["mumble"], method)).best is None


@pytest.mark.parametrize("method", COMPARING)
async def test_an_answer_that_can_be_compared_with_nothing_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match=f"the method '{method}' compares, and there is only 1; use 'pointwise'"):
        await chosen(worth(4), method)


@pytest.mark.parametrize(
    ("method", "rubric", "problem"),
    [("pointwise", "mllm_judge_pair", "made for 2"), ("halving", "genai_image", "made for 2"),
     ("round_robin", "mllm_judge_batch", "made for 3 or more"), ("listwise", "mllm_judge_pair", "not 3")],
)  # fmt: skip
async def test_a_rubric_that_is_not_made_for_the_method_is_refused_before_anything_is_asked(
    method: str, rubric: str, problem: str
) -> None:
    ask = Asked()
    with pytest.raises(UsageError, match=problem):
        await chosen(worth(1, 2, 3), method, ask, rubric=rubric)
    assert not ask.comparisons


@pytest.mark.parametrize(
    ("setting", "value"),
    [("method", "guess"), ("votes", 0), ("budget", 0.0), ("budget", 1.5), ("confidence", 0.4), ("confidence", 1.1)],
)
def test_an_impossible_setting_is_named(setting: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{setting} must be"):
        SelectionSpec(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
async def test_an_error_of_the_judge_is_raised_as_itself(method: str) -> None:
    async def ask(comparison: Comparison) -> Judgment:
        raise UsageError(f"{comparison.id}: no")

    with pytest.raises(UsageError, match="q/"):
        await chosen(worth(1, 2, 3), method, ask)


answers = st.lists(st.sampled_from([*worth(1, 2, 3, 9), "mumble", "mumble too"]), min_size=2, max_size=7)


@settings(deadline=None, max_examples=60)
@given(answers, st.sampled_from(METHODS), st.integers(0, 3))
async def test_what_is_said_of_a_selection_agrees_with_itself(responses: list[str], method: str, seed: int) -> None:
    selection = await chosen(responses, method, seed=seed)
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
