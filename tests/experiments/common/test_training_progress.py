"""Progress of a training: completions can be read at 80 and at 200 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flex_judge.experiments.common.training.progress import print_completions


@pytest.mark.parametrize("columns", [80, 200])
def test_completions_show_all_columns_of_the_judge(columns: int) -> None:
    stream = io.StringIO()
    print_completions(
        Console(file=stream, width=columns),
        ["What is 2 + 3?"] * 2,
        [[{"role": "assistant", "content": "It is 5."}], "It is \x1b[31m6. " + "Very long. " * 200],
        {"JudgeReward": [4.5, None]},
        [0.7, -0.7],
        12,
        None,
        {"judge_reasoning": ["right " * 30, "wrong"], "judge_status": ["ok", "overlong"], "judge_score": [5, None]},
    )
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text
    for name in ("prompt", "completion", "JudgeReward", "advantage", "judge_reasoning", "judge_status", "judge_score"):
        assert text.count(f"{name} ") == 2, text
    assert "step 12: 2 of 2 completions" in text
    assert "assistant: It is 5." in text
    assert "overlong" in text
