"""Inputs with faults of files that are handed around with this project, if they are there."""

from __future__ import annotations

import tarfile
from pathlib import Path

from shared_cases import CASES, needs_cases

from flex_judge.alignment.data.prompts import PromptColumns, read_prompts
from flex_judge.alignment.data.sources import open_source
from flex_judge.experiments.benchmarks.stored import read_replies
from flex_judge.experiments.commands.judge.view import parse_content
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import InvalidRow, read_comparisons
from flex_judge.judges.rubrics import load_rubric

pytestmark = needs_cases


def test_bad_byte_in_a_column_that_nobody_asked_for_costs_nothing() -> None:
    rows = read_comparisons(CASES / "04-parquet-conversion" / "bad_utf8_in_unused_column.parquet")
    assert [isinstance(row, InvalidRow) for row in rows] == [False, False]
    file = CASES / "04-parquet-conversion" / "prompts_bad_utf8_row3.parquet"
    source = open_source(str(file))
    assert not any(isinstance(row, UsageError) for row in read_prompts(source, 0, 9, PromptColumns()))
    kept = list(read_prompts(source, 0, 9, PromptColumns(keep=("source",))))
    assert [isinstance(row, UsageError) for row in kept] == [False, False, True, False, False, False]
    assert str(kept[2]).startswith("prompts_bad_utf8_row3.parquet, row 3, field 'source': cannot be read: not UTF-8")


def test_media_are_next_to_the_link_in_a_cache_of_the_hub(tmp_path: Path) -> None:
    with tarfile.open(CASES / "05-symlinked-data" / "prompts_hub_cache.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    file = tmp_path / "snapshots" / "r1" / "p.jsonl"
    (row,) = read_prompts(open_source(str(file)), 0, 9, PromptColumns())
    assert not isinstance(row, UsageError)
    (comparison_row,) = read_comparisons(file)
    comparison_row.load_comparison()


def test_long_cell_of_a_table_is_read() -> None:
    replies = read_replies(CASES / "14-csv-field-limit" / "replies_long_thought.csv")
    assert max(len(str(reply.texts[0])) for reply in replies.values()) > 131_072


def test_byte_order_marks_are_no_part_of_the_text() -> None:
    assert parse_content(f"@{CASES / '16-bom' / 'bom.txt'}") == "Hello\n"
    assert str(load_rubric(str(CASES / "16-bom" / "rbom.toml")).scale) == "1-5"
