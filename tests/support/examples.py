"""Judgments of arithmetic answers for training tiny judges, in the format of `flex-judge curate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flex_judge.alignment.tasks.synthetic_teacher import judge_answers
from flex_judge.judges import Comparison
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric


def make_example(question: str, *responses: str) -> dict[str, Any]:
    """Make a row with the synthetic teacher's judgment of responses."""
    reasoning, scores = judge_answers(question, responses)
    turns = build_judge_turns(Comparison.of(question, *responses, rubric="correctness"), load_rubric("correctness"))
    texts = ["".join(p.text for p in turn.pieces if isinstance(p, Span)) for turn in turns]
    answers = "".join(f"<answer>{score}</answer>" for score in scores)
    return {
        "prompt": [{"role": turn.role, "content": text} for turn, text in zip(turns, texts, strict=True)],
        "completion": [{"role": "assistant", "content": f"<think>\n{reasoning}\n</think>\n\n{answers}"}],
        "question": question,
        "responses": list(responses),
        "rubric": "correctness",
        "scores": list(scores),
    }


def make_examples(count: int) -> list[dict[str, Any]]:
    """Make rows with single responses and pairs in turn; half of the responses are right."""
    rows = []
    for n in range(count):
        right, wrong = f"It is {n + 3}.", f"It is {n + 4}."
        responses = [(right,), (right, wrong), (wrong,), (wrong, right)][n % 4]
        rows.append(make_example(f"What is {n} + 3?", *responses))
    return rows


def curated(folder: Path, count: int = 6, held_out: int = 2) -> Path:
    """Write a curated folder with training and held-out rows, and return it."""
    folder.mkdir(parents=True)
    rows = make_examples(count + held_out)
    for name, split in (("train", rows[:count]), ("held_out", rows[count:])):
        if split:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split))
    return folder
