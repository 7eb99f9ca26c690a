"""Published replies on the released data give the published figures; skipped where a release is not on this machine.

The files are in `shared/data` of a folder above the repository, or in `FLEX_JUDGE_RELEASES`: `pandalm/testset-v1.json`
and JudgeLRM's replies, `genai_bench/` with GPT-4o's replies.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from eval_command import Run
from repository import find_shared


def find_release(name: str) -> Path:
    own = Path(os.environ.get("FLEX_JUDGE_RELEASES", "")) / name
    path = own if own.exists() else find_shared(f"data/{name}")
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    return path


def replay_release(capfd: pytest.CaptureFixture[str], name: str, data: str, replies: Path) -> dict[str, Any]:
    run = Run(capfd, "eval", name, "--data", str(find_release(data)), "--replay", str(replies), "--json")
    assert run.status == 0, run.err
    return run.json


@pytest.mark.parametrize(
    ("size", "agreement", "classes", "off_scale"),
    [("7b", 0.7828, (0.7490, 0.7574, 0.7505), 32), ("3b", 0.7768, (), 9)],
)
def test_judgelrm_on_pandalm(
    size: str, agreement: float, classes: tuple[float, ...], off_scale: int, capfd: pytest.CaptureFixture[str]
) -> None:
    replies = find_release(f"pandalm/replies_judgelrm{size}.jsonl")
    summary = replay_release(capfd, "pandalm", "pandalm/testset-v1.json", replies)
    figures = summary["tasks"]["pair"]["figures"]
    assert round(summary["agreement"], 4) == agreement
    assert tuple(round(figures[name]["strict"], 4) for name in ("precision", "recall", "f1"))[: len(classes)] == classes
    assert (summary["scored"], summary["off_scale"]) == (999, off_scale)


def test_pandalm_on_its_own_data(capfd: pytest.CaptureFixture[str]) -> None:
    replies = find_release("pandalm/pandalm-7b-testset-v1.json")
    assert round(replay_release(capfd, "pandalm", "pandalm/testset-v1.json", replies)["agreement"], 4) == 0.6677


def test_gpt_4o_on_genai_bench(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    replies = tmp_path / "replies.jsonl"
    replies.write_bytes(gzip.decompress(find_release("genai_bench/replies_gpt4o.jsonl.gz").read_bytes()))
    summary = replay_release(capfd, "genai-bench", "genai_bench", replies)
    shares = {name: round(100 * summary[f"{name}.accuracy"], 2) for name in ("image", "edit", "video")}
    assert shares == {"image": 45.59, "edit": 53.54, "video": 48.46}
    assert summary["unscored"] == {"unparseable": 11}
