"""Run `flex-judge eval` in this process, and make items and stored replies for it, or read the items of a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest

from flex_judge.experiments.benchmarks import BENCHMARKS
from flex_judge.experiments.benchmarks.data import open_data
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.experiments.cli import main
from flex_judge.judges.io.files import ComparisonFileRow

JUDGE = ("--engine", "scripted", "--model", "scripts:whole_judge", "--max-think-tokens", "400", "--no-force")


class Run:
    """Exit status and output of a command."""

    def __init__(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> None:
        capfd.readouterr()
        try:
            self.status = main(list(arguments))
        except SystemExit as e:
            self.status = e.code  # type: ignore[assignment]
        self.out, self.err = capfd.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        output: dict[str, Any] = json.loads(self.out)
        return output


def make_reply(first: float, second: float) -> str:
    """Make a reply with these scores."""
    return f"<think>\nThe first is {first}.\n</think>\n<answer>{first}</answer><answer>{second}</answer>"


def make_item(rubric: str, label: Any, responses: int, **groups: str) -> Item:
    """Make an item with short responses."""
    row = ComparisonFileRow("x", "here", {"prompt": "", "responses": ["r"] * responses}, rubric, Path())
    return Item(row, "t", label, groups)


def parse_items(name: str, *paths: Path) -> list[Item]:
    """Read the items of a benchmark from files or folders."""
    spec = BENCHMARKS[name].spec
    return BENCHMARKS[name].parse_items(open_data(list(map(str, paths)), spec.patterns, spec.expected, spec.columns))


def write_replies(*rows: dict[str, Any]) -> str:
    """Write stored replies to a file and return its path."""
    return str(data.write_table(Path("replies.jsonl"), list(rows)))


PANDALM_REPLIES = (
    {"id": 7, "text": make_reply(8, 3)},
    {"id": "9", "text": make_reply(5, 5)},
    {"id": 4, "text": make_reply(5, 5)},
    {"id": 5, "text": make_reply(3.5, 4.5)},
    {"id": 6, "text": make_reply(9, 1)},
)
