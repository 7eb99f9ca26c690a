"""Judgments of sums to train tiny judges on, as `flex-judge curate` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flex_judge.alignment.tasks.synthetic_teacher import judge_answers
from flex_judge.judges import Comparison
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric


def example(question: str, *responses: str) -> dict[str, Any]:
    """The teacher's judgment as a row."""
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


def examples(count: int) -> list[dict[str, Any]]:
    """Single responses and pairs in turn, half of what they say right."""
    rows = []
    for n in range(count):
        right, wrong = f"It is {n + 3}.", f"It is {n + 4}."
        said = [(right,), (right, wrong), (wrong,), (wrong, right)][n % 4]
        rows.append(example(f"What is {n} + 3?", *said))
    return rows


def curated(folder: Path, count: int = 6, held_out: int = 2) -> Path:
    """A folder of training examples and held-out judgments, which is returned."""
    folder.mkdir(parents=True)
    rows = examples(count + held_out)
    for name, some in (("train", rows[:count]), ("held_out", rows[count:])):
        if some:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder
