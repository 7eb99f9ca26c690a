"""`flex-judge eval` run in this process, and stored replies for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest

from flex_judge.experiments.cli import main

JUDGE = ("--engine", "scripted", "--model", "scripts:whole_judge", "--max-think-tokens", "400", "--no-force")


class Run:
    """What a command came to."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        capfd.readouterr()
        try:
            self.status = main(list(arguments))
        except SystemExit as e:
            self.status = e.code  # type: ignore[assignment]
        self.out, self.err = capfd.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def said(first: float, second: float) -> str:
    return f"<think>\nThe first is {first}.\n</think>\n<answer>{first}</answer><answer>{second}</answer>"


def replies(*rows: dict[str, Any]) -> str:
    return str(data.table(Path("replies.jsonl"), list(rows)))


PANDALM = (
    {"id": 7, "text": said(8, 3)},
    {"id": "9", "text": said(5, 5)},
    {"id": 4, "text": said(5, 5)},
    {"id": 5, "text": said(3.5, 4.5)},
    {"id": 6, "text": said(9, 1)},
)
