"""From judgments of pairs to samples: singles cut out, sides balanced, held-out questions apart, scales mapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from curating import example, words

from flex_judge.alignment.curation.examples import (
    FIRST_NOT_MENTIONED,
    STARTS_WITH_OTHER,
    TrainingExample,
    cut_to_first_answer,
)
from flex_judge.alignment.curation.selection import (
    MENTIONS_SCORES,
    WINNER_LOST,
    Selection,
    SelectionResult,
    select_examples,
)
from flex_judge.judges.errors import UsageError


@pytest.mark.parametrize(
    ("reasoning", "single"),
    [
        (
            "The sum is 5. Assistant 1 ends with 5. 5 is 5, so it is right. Assistant 2 ends with 6, so it is wrong.",
            "The sum is 5. The assistant ends with 5. 5 is 5, so it is right.",
        ),
        (
            "**Assistant 1's answer:**\n- Clear, and assistant 1 cites sources.\n\n2. **Assistant 2's answer:**\n- No.",
            "**The assistant's answer:**\n- Clear, and the assistant cites sources.",
        ),
        (
            "1. Assistant 1: The AI assistant 1 is kind. Good! However, the second answer is longer.",
            "1. The assistant: The assistant is kind. Good!",
        ),
        (
            "The first assistant is short. It is 3.5 m. Compared to the other answer, fine.",
            "The assistant is short. It is 3.5 m.",
        ),
        ("Answer 1 is right. Both answers are short.", "The answer is right."),
        ('Assistant #1 said "Yes." It helps, e.g. Assistant 2 does not.', 'The assistant said "Yes."'),
        (
            "Assistant 1 is one of many. It covers both sides of it.",
            "The assistant is one of many. It covers both sides of it.",
        ),
        ("So Assistant 1 is fine, the answer 2 is right.", "So the assistant is fine, the answer 2 is right."),
    ],
)
def test_a_single_is_the_judgment_of_the_first_assistant_alone(reasoning: str, single: str) -> None:
    found = cut_to_first_answer(example(1, (8, 3), reasoning))
    assert isinstance(found, TrainingExample)
    assert found.reasoning == single
    assert (found.scores, found.kind, found.answers) == ((8.0,), "pointwise", ("The one answer of 1.",))
    assert found.reference_scores == (8.0,)


@pytest.mark.parametrize(
    ("reasoning", "why"),
    [
        ("Let me compare both assistants. Assistant 1 is right.", STARTS_WITH_OTHER),
        ("Assistant 2 is wrong. Assistant 1 is right.", STARTS_WITH_OTHER),
        ("The sum is 5. Assistant 1 is better than Assistant 2.", STARTS_WITH_OTHER),
        ("Assistant 1 vs. Assistant 2: the first assistant wins.", STARTS_WITH_OTHER),
        ("Assistants 1 and 2 differ. Assistant 1 is right.", STARTS_WITH_OTHER),
        ("Each of the answers is short.", STARTS_WITH_OTHER),
        ("The sum is 5.", FIRST_NOT_MENTIONED),
    ],
)
def test_reasoning_that_begins_with_the_other_or_both_is_no_single(reasoning: str, why: str) -> None:
    assert cut_to_first_answer(example(1, reasoning=reasoning)) == why


def pool(count: int = 60, start: int = 1, **other: Any) -> list[TrainingExample]:
    """TrainingExamples of different lengths; every third is a tie, the others are won in turn."""
    scores = ((8, 4), (4, 9), (5, 5))
    return [
        example(
            n, scores[n % 3], "Assistant 1 is " + "very " * n + "good. Assistant 2 is " + "so " * n + "bad.", **other
        )
        for n in range(start, start + count)
    ]


def choose(examples: Sequence[TrainingExample], **settings: Any) -> SelectionResult:
    usual = {"pointwise": 6, "pairwise": 12, "pointwise_tokens": 5, "pairwise_tokens": 10, "held_out": 6, "remap": 0.0}
    return select_examples(examples, Selection(**(usual | settings)), words)


def rows(examples: Sequence[TrainingExample], kind: str | None = None) -> list[int]:
    return sorted(one.reference.row for one in examples if kind in (None, one.kind))


def test_no_prompt_is_in_two_samples_and_no_held_out_question_is_trained_on() -> None:
    examples = pool()
    examples += [
        replace(one, reference=replace(one.reference, id=f"{n}b", answers=(f"x{n}", "y")))
        for n, one in enumerate(examples)
    ]
    found = choose(examples, pointwise=30, pairwise=30, held_out=11)
    assert Counter(one.kind for one in found.train) == {"pointwise": 30, "pairwise": 30}
    assert Counter(one.kind for one in found.held_out) == {"pointwise": 5, "pairwise": 6}
    samples = [*found.train, *found.held_out]
    assert len({one.reference.id for one in samples}) == len(samples)
    assert len({one.prompt_digest for one in samples}) == len(samples)
    held = {one.question_digest for one in found.held_out}
    assert len(held) == 11
    assert not held & {one.question_digest for one in found.train}


def listwise(count: int) -> list[TrainingExample]:
    """Judgments of three answers: the first one is the best of most, and some are ties."""
    found = []
    for n in range(1, count + 1):
        scores = ((9, 4, 1), (8, 3, 2), (7, 2, 1), (3, 9, 1), (1, 2, 9), (6, 6, 1))[n % 6]
        two = example(n + 500, (8, 4), "Assistant 1 is " + "very " * n + "good.")
        reference = replace(two.reference, answers=(*two.reference.answers, "A third one."), scores=scores)
        found.append(replace(two, reference=reference, scores=tuple(map(float, scores))))
    return found


def test_batches_are_taken_where_they_are_asked_for_and_every_place_wins() -> None:
    examples = [*pool(), *listwise(60)]
    found = choose(examples, listwise=16, held_out=9)
    assert Counter(one.kind for one in found.train) == {"pointwise": 6, "pairwise": 12, "listwise": 16}
    assert Counter(one.kind for one in found.held_out) == {"pointwise": 3, "pairwise": 3, "listwise": 3}
    assert Counter(one.winner for one in found.train if one.kind == "listwise") == {0: 4, 1: 4, 2: 4, None: 4}
    assert found.candidates["listwise"] == 60
    without = choose(examples)
    assert rows(without.train) == rows(choose(pool()).train)
    assert "listwise" not in without.candidates


def test_the_held_out_set_is_the_same_at_any_size_order_and_seed() -> None:
    examples = pool()
    first = choose(examples)
    for other in ({"pointwise": 2, "pairwise": 3}, {"order": "shortest"}, {"order": "random", "seed": 5}):
        again = choose(examples, **other)
        assert {one.id for one in again.held_out} == {one.id for one in first.held_out}
    assert {one.id for one in choose(examples[::-1]).held_out} == {one.id for one in first.held_out}


def test_the_longest_are_taken_first_unless_told_otherwise() -> None:
    settings = {"pointwise": 0, "held_out": 0, "balance": "none"}
    assert rows(choose(pool(), **settings).train) == list(range(49, 61))
    assert rows(choose(pool(), **settings, order="shortest", pairwise_tokens=21).train) == list(range(7, 19))
    assert rows(choose(pool()[::-1], **settings, order="given").train) == list(range(49, 61))
    drawn = rows(choose(pool(), **settings, order="random").train)
    assert drawn == rows(choose(pool()[::-1], **settings, order="random").train)
    assert drawn != rows(choose(pool(), **settings, order="random", seed=1).train)


def test_reasoning_must_be_longer_than_the_threshold_and_what_is_not_is_counted() -> None:
    found = choose(
        pool(), pointwise=60, pairwise=60, pointwise_tokens=50, pairwise_tokens=100, held_out=0, balance="none"
    )
    # A single of row n has n + 4 words, a pair 2 n + 8.
    assert min(one.tokens for one in found.train if one.kind == "pairwise") == 102
    assert rows(found.train, "pairwise") == list(range(47, 61))
    assert found.candidates == {"pointwise": 14, "pairwise": 14}
    assert found.unfit == {
        "pointwise: reasoning of 50 tokens or fewer": 46,
        "pairwise: reasoning of 100 tokens or fewer": 46,
    }
    assert found.missing == {"train: pointwise": 60, "train: pairwise": 46}


def test_reasoning_that_gives_no_single_is_counted_and_may_be_a_pair() -> None:
    both = [example(n, reasoning="Both assistants are " + "so " * 20 + "good.") for n in range(1, 5)]
    found = choose(both, pointwise=2, pairwise=4, held_out=0, balance="none")
    assert Counter(one.kind for one in found.train) == {"pairwise": 4}
    assert found.unfit == {f"pointwise: {STARTS_WITH_OTHER}": 4}


def winners(examples: Sequence[TrainingExample]) -> Counter[int | None]:
    return Counter(one.winner for one in examples if one.kind == "pairwise")


def test_winners_of_pairs_stand_first_and_second_equally_often() -> None:
    assert winners(choose(pool(), held_out=0).train) == {0: 4, 1: 4, None: 4}
    skewed = [one for one in pool(120) if one.winner != 1 or one.reference.row % 4 == 0]
    assert winners(choose(skewed, pointwise=0, held_out=0, balance="none").train)[1] < 4
    found = choose(skewed, pointwise=0, held_out=0)
    assert winners(found.train).total() == 12
    assert abs(winners(found.train)[0] - winners(found.train)[1]) <= 1  # one is odd
    few = [one for one in pool(120) if one.winner != 1 or one.reference.row < 11]
    found = choose(few, pointwise=0, held_out=0)
    assert winners(found.train) == {0: 3, 1: 3, None: 6}  # rows 4, 7 and 10 are all that is long enough
    found = choose([one for one in few if one.winner is not None], pointwise=0, held_out=0)
    assert winners(found.train) == {0: 3, 1: 3}
    assert found.missing == {"train: pairwise": 6}


def test_scores_of_singles_are_balanced_on_request() -> None:
    high = [one for one in pool(90) if one.winner == 0 or one.reference.row > 60]
    taken = choose(high, pairwise=0, pointwise=12, held_out=0, balance="all").train
    assert Counter(one.scores[0] > 5.5 for one in taken) == {True: 6, False: 6}


def test_singles_with_the_same_question_and_answer_are_one_sample() -> None:
    same = [
        example(n, question="Who?", answers=("Me.", f"You {n}."), reasoning="Assistant 1 is " + "so " * n + "good.")
        for n in range(3, 9)
    ]
    found = choose(same, pointwise=4, pairwise=0, held_out=0)
    assert rows(found.train) == [8]
    assert found.missing == {"train: pointwise": 3}


def test_a_share_of_each_kind_is_mapped_to_the_smaller_scale() -> None:
    found = choose(pool(), pointwise=10, pairwise=20, remap=0.5)
    for kind, number in (("pointwise", 10), ("pairwise", 20)):
        assert Counter(one.scale for one in found.train if one.kind == kind) == {"1-5": number / 2, "1-10": number / 2}
    known = {one.id: one for one in pool()}
    for one in found.train:
        told = known[one.id].scores[: len(one.scores)]
        assert one.scores == (tuple(-(-score // 2) for score in told) if one.scale == "1-5" else told)
        assert one.reference_scores == one.scores
    again = choose(pool(), pointwise=10, pairwise=20, remap=0.5)
    assert again.train == found.train
    assert choose(pool(), pointwise=10, pairwise=20, remap=0.5, seed=1).train != found.train


def test_samples_that_speak_of_their_scale_or_would_become_a_tie_keep_it() -> None:
    said = [replace(one, reasoning=f"Assistant 1 gets 8/10. {one.reasoning}") for one in pool(10, start=3)]
    close = [replace(one, scores=(8.0, 7.0)) for one in pool(5, start=20)]
    free = pool(5, start=40)
    found = choose([*said, *close, *free], pointwise=0, pairwise=20, held_out=0, balance="none", remap=1.0)
    assert {one.reference.row for one in found.train if one.scale == "1-5"} == set(range(40, 45))
    assert found.kept_scale == {MENTIONS_SCORES: 10, WINNER_LOST: 5}
    assert not choose(pool(), remap=0.0).kept_scale


def test_samples_of_a_teacher_on_the_smaller_scale_stay_on_it() -> None:
    small = [
        replace(one, scale="1-5", scores=(5.0, 1.0), reference=replace(one.reference, scale="1-5")) for one in pool()
    ]
    found = choose(small, remap=1.0)
    assert {one.scale for one in found.train} == {"1-5"}
    assert {one.scores[0] for one in found.train} == {5.0}


def test_with_one_kind_alone_all_that_is_held_out_is_of_it() -> None:
    assert {one.kind for one in choose(pool(), pointwise=0).held_out} == {"pairwise"}
    assert {one.kind for one in choose(pool(), pairwise=0).held_out} == {"pointwise"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pointwise": -1}, "pointwise must be at least 0"),
        ({"pointwise": 0, "pairwise": 0}, "pointwise, pairwise and listwise must not all be 0"),
        ({"remap": 1.5}, "remap must be from 0 to 1"),
        ({"order": "best"}, "order must be one of longest, shortest, random, given, not 'best'"),
        ({"balance": "some"}, "balance must be one of none, pairwise, all"),
    ],
)
def test_a_selection_that_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Selection(**settings)
