"""Made-up questions and candidates for benches: seeded, of a known length, about nothing."""

from __future__ import annotations

import random

from flex_judge.judges.types import Comparison

WORDS = (
    *("river", "stone", "market", "window", "letter", "garden", "morning", "ladder", "silver", "paper", "engine"),
    *("harbour", "winter", "bottle", "forest", "candle", "bridge", "travel", "number", "simple", "answer", "reason"),
)


def make_sentence(words: int, rng: random.Random) -> str:
    """A sentence of so many words."""
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def make_comparisons(
    questions: int, candidates: int, question_words: int, candidate_words: int, rng: random.Random
) -> list[Comparison]:
    """Single candidates to be scored, those of a question next to each other; their ids count from 0."""
    asked = [make_sentence(question_words, rng) for _ in range(questions)]
    pairs = [(question, make_sentence(candidate_words, rng)) for question in asked for _ in range(candidates)]
    return [Comparison.of(question, answer, id=str(i)) for i, (question, answer) in enumerate(pairs)]
