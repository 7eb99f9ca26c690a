"""Measure a judge on your own labelled pairs.

Shows how to judge each pair in both orders and count ties and unscored pairs as wrong. A row of the file is
{"prompt", "responses": [first, second], "label": 0 or 1}. `flex-judge eval` runs published benchmarks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from flex_judge import Comparison, FlexJudge

ROWS: list[dict[str, Any]] = [
    {"prompt": "What is 6 + 7?", "responses": ["6 + 7 = 13", "6 + 7 = 14"], "label": 0},
    {"prompt": "What is 9 + 4?", "responses": ["It is 12.", "It is 13."], "label": 1},
    {"prompt": "What is 12 - 5?", "responses": ["12 - 5 = 7", "12 - 5 = 8"], "label": 0},
]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help=".jsonl file (default: three pairs about sums)")
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--rubric", default="correctness")
    options = parser.parse_args()

    lines = options.data.read_text(encoding="utf-8-sig").split("\n") if options.data else []
    rows = [json.loads(line) for line in lines if line.strip()] or ROWS
    budget = 128 if options.judge == "flex-smollm2-135m" else 4096  # thinking tokens
    settings: dict[str, Any] = {"max_think_tokens": budget, "order": "both", "temperature": 0.0}
    judge = FlexJudge.from_pretrained(options.judge, options.engine, **settings)
    judgments = judge.judge([Comparison.of(row["prompt"], *row["responses"], rubric=options.rubric) for row in rows])
    correct = sum(judgment.preferred == row["label"] for judgment, row in zip(judgments, rows, strict=True))
    undecided = sum(judgment.preferred is None for judgment in judgments)
    print(f"agreement {correct / len(rows):.1%}, ties and unscored {undecided / len(rows):.1%}, of {len(rows)} pairs")
    judge.close()
