"""Rows, judgments and training examples for curation tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import ReferenceRow

REASONING = "Assistant 1 is right. Assistant 2 is wrong."


def count_words(texts: Sequence[str]) -> list[int]:
    """Count tokens, with one token per word."""
    return [len(text.split()) for text in texts]


def make_example(
    row: int = 1,
    scores: tuple[float, ...] = (8, 4),
    reasoning: str = REASONING,
    question: str = "",
    answers: tuple[str, str] = ("", ""),
    reference: tuple[float, float] | None = None,
    sample_index: int = 0,
    scale: str = "1-10",
) -> TrainingExample:
    """Make a teacher's judgment of a row; missing texts are derived from the row number."""
    first, second = answers
    left, right = map(float, reference or (scores[0], scores[-1]))
    row_reference = ReferenceRow(
        str(row),
        row,
        question or f"Question {row}?",
        (first or f"The one answer of {row}.", second or f"Another one of {row}."),
        (left, right),
        scale,
        f"rows.jsonl, line {row}",
    )
    return TrainingExample(
        row_reference,
        reasoning,
        tuple(map(float, scores)),
        scale,
        count_words([reasoning])[0],
        "teacher@1",
        sample_index,
    )


def data(number: int, score: Any = (8, 4), **fields: Any) -> dict[str, Any]:
    """Make a row in the format of JudgeLM-100K."""
    return {
        "question_id": number,
        "question_body": f"What is {number}?",
        "answer1_body": f"It is {number}.",
        "answer2_body": f"It was {number}.",
        "score": list(score) if isinstance(score, tuple) else score,
        **fields,
    }


def written(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """Write a JSON lines file and return its path. A string is written unchanged."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
