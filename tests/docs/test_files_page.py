"""The fields that docs/reference/files.md lists are the fields that the code reads and writes."""

from __future__ import annotations

import re
from dataclasses import fields

from repository import DOCS

from flex_judge import Judgment, Message, Status
from flex_judge.alignment import Selection, pair_highest_with_lowest
from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.pipeline.best_of_n import make_best_of_n_row
from flex_judge.judges import Rubric, Verdict
from flex_judge.judges.io.files import FIELDS

PAGE = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")


def list_documented(anchor: str, number: int = 0) -> set[str]:
    """Return the names in the first column of a table of the section with this anchor."""
    section = re.split(r"\n#+ ", PAGE.partition(f"{{ #{anchor} }}\n")[2])[0]
    table = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number]
    rows = table.splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}


def names_of(cls: type) -> set[str]:
    return {field.name for field in fields(cls)}


def test_comparisons() -> None:
    assert list_documented("comparisons") == set(FIELDS)


def test_judgments_and_their_votes() -> None:
    assert list_documented("judgments") == names_of(Judgment) | {"comparison"}
    assert list_documented("judgments", 1) == names_of(Verdict)


def test_rubrics() -> None:
    assert list_documented("rubrics") == names_of(Rubric) - {"name"}


def test_best_of_n() -> None:
    sampled = SampledPrompt(PromptRow("1", (Message("user", "Hi"),)), (), temperatures=())
    assert list_documented("best-of-n") == set(make_best_of_n_row(sampled, Selection(None, 0, (), (), (), ())))


def test_preferences() -> None:
    judgments = [Judgment("", Status.OK, (score,), (score,), "", votes=(Verdict(Status.OK),)) for score in (1.0, 2.0)]
    row = pair_highest_with_lowest([Message("user", "Hi")], ["Hello!", "What?"], judgments)
    assert isinstance(row, dict)
    assert list_documented("preferences") == set(row)
