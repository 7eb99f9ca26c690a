"""Rows, judgments and training examples for the tests of curation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import ReferenceRow

BOTH = "Assistant 1 is right. Assistant 2 is wrong."


def words(texts: Sequence[str]) -> list[int]:
    """A word is a token."""
    return [len(text.split()) for text in texts]


def example(
    row: int = 1,
    scores: tuple[float, ...] = (8, 4),
    reasoning: str = BOTH,
    question: str = "",
    answers: tuple[str, str] = ("", ""),
    reference: tuple[float, float] | None = None,
    sample_index: int = 0,
    scale: str = "1-10",
) -> TrainingExample:
    """A teacher's judgment of a row; texts that are not given are the row's own."""
    first, second = answers
    left, right = map(float, reference or (scores[0], scores[-1]))
    told = ReferenceRow(
        str(row),
        row,
        question or f"Question {row}?",
        (first or f"The one answer of {row}.", second or f"Another one of {row}."),
        (left, right),
        scale,
        f"rows.jsonl, line {row}",
    )
    return TrainingExample(
        told, reasoning, tuple(map(float, scores)), scale, words([reasoning])[0], "teacher@1", sample_index
    )


def data(number: int, score: Any = (8, 4), **other: Any) -> dict[str, Any]:
    """A row as JudgeLM-100K has it."""
    return {
        "question_id": number,
        "question_body": f"What is {number}?",
        "answer1_body": f"It is {number}.",
        "answer2_body": f"It was {number}.",
        "score": list(score) if isinstance(score, tuple) else score,
        **other,
    }


def written(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """A file of JSON lines; a text is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
