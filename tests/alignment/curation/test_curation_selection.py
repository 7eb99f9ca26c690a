"""Selection of training examples: cutting to one answer, balance, held-out split and mapping of scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from curating import count_words, make_example

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
def test_pointwise_example_keeps_the_judgment_of_the_first_assistant(reasoning: str, single: str) -> None:
    result = cut_to_first_answer(make_example(1, (8, 3), reasoning))
    assert isinstance(result, TrainingExample)
    assert result.reasoning == single
    assert (result.scores, result.kind, result.answers) == ((8.0,), "pointwise", ("The one answer of 1.",))
    assert result.reference_scores == (8.0,)


@pytest.mark.parametrize(
    ("reasoning", "reason"),
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
def test_reasoning_that_starts_with_the_other_assistant_cannot_be_cut(reasoning: str, reason: str) -> None:
    assert cut_to_first_answer(make_example(1, reasoning=reasoning)) == reason


def make_pool(count: int = 60, start: int = 1, **fields: Any) -> list[TrainingExample]:
    """Make examples of different lengths; every third is a tie, the others alternate between the winners."""
    scores = ((8, 4), (4, 9), (5, 5))
    return [
        make_example(
            n, scores[n % 3], "Assistant 1 is " + "very " * n + "good. Assistant 2 is " + "so " * n + "bad.", **fields
        )
        for n in range(start, start + count)
    ]


def choose_examples(examples: Sequence[TrainingExample], **settings: Any) -> SelectionResult:
    defaults = {
        "pointwise": 6,
        "pairwise": 12,
        "pointwise_tokens": 5,
        "pairwise_tokens": 10,
        "held_out": 6,
        "remap": 0.0,
    }
    return select_examples(examples, Selection(**(defaults | settings)), count_words)


def list_rows(examples: Sequence[TrainingExample], kind: str | None = None) -> list[int]:
    return sorted(example.reference.row for example in examples if kind in (None, example.kind))


def test_prompts_are_unique_and_held_out_questions_are_not_trained_on() -> None:
    examples = make_pool()
    examples += [
        replace(example, reference=replace(example.reference, id=f"{n}b", answers=(f"x{n}", "y")))
        for n, example in enumerate(examples)
    ]
    result = choose_examples(examples, pointwise=30, pairwise=30, held_out=11)
    assert Counter(example.kind for example in result.train) == {"pointwise": 30, "pairwise": 30}
    assert Counter(example.kind for example in result.held_out) == {"pointwise": 5, "pairwise": 6}
    samples = [*result.train, *result.held_out]
    assert len({example.reference.id for example in samples}) == len(samples)
    assert len({example.prompt_digest for example in samples}) == len(samples)
    held_out_questions = {example.question_digest for example in result.held_out}
    assert len(held_out_questions) == 11
    assert not held_out_questions & {example.question_digest for example in result.train}


def make_listwise(count: int) -> list[TrainingExample]:
    """Make judgments of three answers, of which the first one wins most often and some are ties."""
    result = []
    for n in range(1, count + 1):
        scores = ((9, 4, 1), (8, 3, 2), (7, 2, 1), (3, 9, 1), (1, 2, 9), (6, 6, 1))[n % 6]
        pair = make_example(n + 500, (8, 4), "Assistant 1 is " + "very " * n + "good.")
        reference = replace(pair.reference, answers=(*pair.reference.answers, "A third answer."), scores=scores)
        result.append(replace(pair, reference=reference, scores=tuple(map(float, scores))))
    return result


def test_listwise_examples_are_optional_and_balanced_over_places() -> None:
    examples = [*make_pool(), *make_listwise(60)]
    result = choose_examples(examples, listwise=16, held_out=9)
    assert Counter(example.kind for example in result.train) == {"pointwise": 6, "pairwise": 12, "listwise": 16}
    assert Counter(example.kind for example in result.held_out) == {"pointwise": 3, "pairwise": 3, "listwise": 3}
    assert Counter(example.winner for example in result.train if example.kind == "listwise") == {
        0: 4,
        1: 4,
        2: 4,
        None: 4,
    }
    assert result.candidates["listwise"] == 60
    without_lists = choose_examples(examples)
    assert list_rows(without_lists.train) == list_rows(choose_examples(make_pool()).train)
    assert "listwise" not in without_lists.candidates


def test_held_out_split_does_not_depend_on_size_order_or_seed() -> None:
    examples = make_pool()
    first = choose_examples(examples)
    for changes in ({"pointwise": 2, "pairwise": 3}, {"order": "shortest"}, {"order": "random", "seed": 5}):
        again = choose_examples(examples, **changes)
        assert {example.id for example in again.held_out} == {example.id for example in first.held_out}
    assert {example.id for example in choose_examples(examples[::-1]).held_out} == {
        example.id for example in first.held_out
    }


def test_order_setting_decides_which_examples_are_chosen() -> None:
    settings = {"pointwise": 0, "held_out": 0, "balance": "none"}
    assert list_rows(choose_examples(make_pool(), **settings).train) == list(range(49, 61))
    assert list_rows(choose_examples(make_pool(), **settings, order="shortest", pairwise_tokens=21).train) == list(
        range(7, 19)
    )
    assert list_rows(choose_examples(make_pool()[::-1], **settings, order="given").train) == list(range(49, 61))
    shuffled = list_rows(choose_examples(make_pool(), **settings, order="random").train)
    assert shuffled == list_rows(choose_examples(make_pool()[::-1], **settings, order="random").train)
    assert shuffled != list_rows(choose_examples(make_pool(), **settings, order="random", seed=1).train)


def test_short_reasoning_is_excluded_and_counted() -> None:
    result = choose_examples(
        make_pool(), pointwise=60, pairwise=60, pointwise_tokens=50, pairwise_tokens=100, held_out=0, balance="none"
    )
    # The pointwise example of row n has n + 4 words, the pair 2 n + 8.
    assert min(example.tokens for example in result.train if example.kind == "pairwise") == 102
    assert list_rows(result.train, "pairwise") == list(range(47, 61))
    assert result.candidates == {"pointwise": 14, "pairwise": 14}
    assert result.unfit == {
        "pointwise: reasoning of 50 tokens or fewer": 46,
        "pairwise: reasoning of 100 tokens or fewer": 46,
    }
    assert result.missing == {"train: pointwise": 60, "train: pairwise": 46}


def test_reasoning_that_cannot_be_cut_is_counted_and_remains_a_pair() -> None:
    uncuttable = [make_example(n, reasoning="Both assistants are " + "so " * 20 + "good.") for n in range(1, 5)]
    result = choose_examples(uncuttable, pointwise=2, pairwise=4, held_out=0, balance="none")
    assert Counter(example.kind for example in result.train) == {"pairwise": 4}
    assert result.unfit == {f"pointwise: {STARTS_WITH_OTHER}": 4}


def count_winners(examples: Sequence[TrainingExample]) -> Counter[int | None]:
    return Counter(example.winner for example in examples if example.kind == "pairwise")


def test_pairwise_winners_are_balanced_between_first_and_second() -> None:
    assert count_winners(choose_examples(make_pool(), held_out=0).train) == {0: 4, 1: 4, None: 4}
    skewed = [example for example in make_pool(120) if example.winner != 1 or example.reference.row % 4 == 0]
    assert count_winners(choose_examples(skewed, pointwise=0, held_out=0, balance="none").train)[1] < 4
    result = choose_examples(skewed, pointwise=0, held_out=0)
    assert count_winners(result.train).total() == 12
    assert abs(count_winners(result.train)[0] - count_winners(result.train)[1]) <= 1  # the number of winners is odd
    few = [example for example in make_pool(120) if example.winner != 1 or example.reference.row < 11]
    result = choose_examples(few, pointwise=0, held_out=0)
    assert count_winners(result.train) == {0: 3, 1: 3, None: 6}  # only rows 4, 7 and 10 are long enough
    result = choose_examples([example for example in few if example.winner is not None], pointwise=0, held_out=0)
    assert count_winners(result.train) == {0: 3, 1: 3}
    assert result.missing == {"train: pairwise": 6}


def test_pointwise_scores_are_balanced_on_request() -> None:
    high = [example for example in make_pool(90) if example.winner == 0 or example.reference.row > 60]
    chosen = choose_examples(high, pairwise=0, pointwise=12, held_out=0, balance="all").train
    assert Counter(example.scores[0] > 5.5 for example in chosen) == {True: 6, False: 6}


def test_pointwise_examples_with_the_same_prompt_are_merged() -> None:
    same = [
        make_example(
            n, question="Who?", answers=("Me.", f"You {n}."), reasoning="Assistant 1 is " + "so " * n + "good."
        )
        for n in range(3, 9)
    ]
    result = choose_examples(same, pointwise=4, pairwise=0, held_out=0)
    assert list_rows(result.train) == [8]
    assert result.missing == {"train: pointwise": 3}


def test_share_of_each_kind_is_mapped_to_the_smaller_scale() -> None:
    result = choose_examples(make_pool(), pointwise=10, pairwise=20, remap=0.5)
    for kind, number in (("pointwise", 10), ("pairwise", 20)):
        assert Counter(example.scale for example in result.train if example.kind == kind) == {
            "1-5": number / 2,
            "1-10": number / 2,
        }
    originals = {example.id: example for example in make_pool()}
    for example in result.train:
        scores = originals[example.id].scores[: len(example.scores)]
        assert example.scores == (tuple(-(-score // 2) for score in scores) if example.scale == "1-5" else scores)
        assert example.reference_scores == example.scores
    again = choose_examples(make_pool(), pointwise=10, pairwise=20, remap=0.5)
    assert again.train == result.train
    assert choose_examples(make_pool(), pointwise=10, pairwise=20, remap=0.5, seed=1).train != result.train


def test_examples_that_mention_scores_or_would_become_ties_keep_their_scale() -> None:
    with_scores = [
        replace(example, reasoning=f"Assistant 1 gets 8/10. {example.reasoning}") for example in make_pool(10, start=3)
    ]
    close = [replace(example, scores=(8.0, 7.0)) for example in make_pool(5, start=20)]
    free = make_pool(5, start=40)
    result = choose_examples(
        [*with_scores, *close, *free], pointwise=0, pairwise=20, held_out=0, balance="none", remap=1.0
    )
    assert {example.reference.row for example in result.train if example.scale == "1-5"} == set(range(40, 45))
    assert result.kept_scale == {MENTIONS_SCORES: 10, WINNER_LOST: 5}
    assert not choose_examples(make_pool(), remap=0.0).kept_scale


def test_examples_on_the_smaller_scale_are_not_mapped() -> None:
    small = [
        replace(example, scale="1-5", scores=(5.0, 1.0), reference=replace(example.reference, scale="1-5"))
        for example in make_pool()
    ]
    result = choose_examples(small, remap=1.0)
    assert {example.scale for example in result.train} == {"1-5"}
    assert {example.scores[0] for example in result.train} == {5.0}


def test_held_out_examples_have_only_the_requested_kinds() -> None:
    assert {example.kind for example in choose_examples(make_pool(), pointwise=0).held_out} == {"pairwise"}
    assert {example.kind for example in choose_examples(make_pool(), pairwise=0).held_out} == {"pointwise"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pointwise": -1}, "pointwise must be at least 0"),
        ({"pointwise": 0, "pairwise": 0}, "pointwise, pairwise and listwise must not all be 0"),
        ({"remap": 1.5}, "remap must be from 0 to 1"),
        ({"order": "best"}, "order must be one of longest, shortest, random, given, not 'best'"),
        ({"balance": "some"}, "balance must be one of none, pairwise, all"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Selection(**settings)
