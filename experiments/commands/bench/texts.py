"""Seeded random questions and candidates of a fixed length, as input of benches."""

from __future__ import annotations

import random

from flex_judge.judges.types import Comparison

WORDS = (
    *("river", "stone", "market", "window", "letter", "garden", "morning", "ladder", "silver", "paper", "engine"),
    *("harbour", "winter", "bottle", "forest", "candle", "bridge", "travel", "number", "simple", "answer", "reason"),
)


def make_sentence(words: int, rng: random.Random) -> str:
    """Make a sentence of `words` random words."""
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def make_comparisons(
    questions: int, candidates: int, question_words: int, candidate_words: int, rng: random.Random
) -> list[Comparison]:
    """Make pointwise comparisons with ids from 0; the candidates of a question are adjacent."""
    question_texts = [make_sentence(question_words, rng) for _ in range(questions)]
    comparisons: list[Comparison] = []
    for question in question_texts:
        for _ in range(candidates):
            answer = make_sentence(candidate_words, rng)
            comparisons.append(Comparison.of(question, answer, id=str(len(comparisons))))
    return comparisons
