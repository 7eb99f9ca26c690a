"""JudgeReward compared with a reward function that judges completions one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_llama

from flex_judge.experiments.common.flags import make_config
from flex_judge.judges.errors import UsageError
from tests.perf.loop import LoopConfig, run


def test_rejects_zero_prompts() -> None:
    with pytest.raises(UsageError, match="--prompts must be at least 1, not 0"):
        make_config(LoopConfig, prompts=0)


@pytest.mark.slow
def test_measures_both_sides(tmp_path: Path) -> None:
    model = str(tiny_llama(tmp_path))
    result = run(LoopConfig(model, prompts=1, completions=3, words=4, think=4, repeats=1))
    assert [row["side"] for row in result.details["runs"]] == ["side by side", "one by one"]
    assert (result.details["requests"], result.details["unscored"]) == (3, 0)
    assert result.met == (result.ratio >= result.goal)
