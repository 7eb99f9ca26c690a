"""Training data of a judge for `flex-judge sft`, from a curated folder or a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.card import SPLITS
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.data.hub import HUB
from flex_judge.alignment.data.sources import SOURCE_FORMS, open_source, split_location
from flex_judge.alignment.judge_training.encoding import EncodedExample, encode_examples
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping, describe_missing_column, read_cells
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import LocatedRow
from flex_judge.judges.protocol.rendering import Renderer

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, HELD_OUT = SPLITS["train"], SPLITS["held_out"]
"""File names in a folder written by `flex-judge curate`."""

FIELDS = (
    *("prompt", "completion", "text"),
    *("question", "responses", "rubric", "scores", "reference_scores"),
)
"""Columns of training examples and held-out judgments that are read."""
TrainingRow = Mapping[str, Any] | UsageError


@dataclass(frozen=True)
class JudgeTrainingData:
    """Tokenized training examples of a judge."""

    name: str
    rows: tuple[EncodedExample, ...]
    dropped: tuple[DropRecord, ...]

    @classmethod
    def from_rows(
        cls, name: str, rows: Sequence[TrainingRow], renderer: Renderer, max_length: int
    ) -> JudgeTrainingData:
        """Tokenize rows.

        Args:
            name: Name of the file, for messages.
            rows: Rows with `prompt` and `completion`, or errors of rows that cannot be read, see `encode_examples`.
            renderer: Renderer of the model that is tuned.
            max_length: Maximum length of prompt and reply together in tokens.

        Raises:
            UsageError: Every row was dropped.
        """
        examples, dropped = encode_examples(rows, renderer, max_length)
        if not examples:
            fault = f"; row {dropped[0].row}: {dropped[0].reason}: {dropped[0].detail}" if dropped else ""
            raise UsageError(f"{name}: no row can be used for training{fault}")
        return cls(name, tuple(examples), tuple(dropped))

    @property
    def digest(self) -> str:
        """Digest of the token ids."""
        return hashlib.sha256(json.dumps([[row.row, row.input_ids] for row in self.rows]).encode()).hexdigest()[:16]

    @property
    def reason_first(self) -> bool:
        """Whether the replies reason before they answer."""
        return self.rows[0].reason_first

    @property
    def dataset(self) -> Dataset:
        """Data set with the columns `input_ids` and `labels`, as TRL's SFTTrainer takes it."""
        from datasets import Dataset

        return Dataset.from_list([{"input_ids": list(r.input_ids), "labels": list(r.labels)} for r in self.rows])

    @property
    def longest_reply_tokens(self) -> int:
        """Length of the longest reply in tokens."""
        return max(sum(label >= 0 for label in row.labels) for row in self.rows)


def find_train_file(data: str) -> Path:
    """Find the file of training examples: the one in a curated folder, or the given file, folder or data set."""
    path = Path(data)
    return path / TRAIN if (path / TRAIN).is_file() else path


def find_held_out_file(data: str, held_out: str | None) -> Path | None:
    """Find the file of held-out judgments.

    Args:
        data: Curated folder or file of training examples.
        held_out: File given by the user; None for the one in the curated folder.

    Returns:
        Path of the file, or None without one.

    Raises:
        UsageError: The given file does not exist.
    """
    if held_out is not None:
        if not split_location(held_out)[0].exists() and not held_out.startswith(HUB):
            raise UsageError(f"--held-out: {held_out} does not exist")
        return Path(held_out)
    path = Path(data) / HELD_OUT
    # A file has no held-out split, even if a file of that name happens to be next to it.
    return path if Path(data).is_dir() and path.is_file() else None


def read_training_rows(
    file: Path, columns: ColumnMapping = NO_MAPPING, *, keeps_fields: bool = False
) -> list[TrainingRow]:
    """Read the rows of a file, folder or data set (see `open_source`), or the error of each row that cannot be read.

    Args:
        file: The file, folder or data set.
        columns: Columns that hold fields under other names. Those that the rows do not have are left out.
        keeps_fields: Whether fields that the rows have under their own names are kept, as in a file of another origin
            than that for which the columns were named.

    Raises:
        UsageError: The file does not exist or is not a table.
    """
    needs = columns.wrap_needs(FIELDS.__contains__)
    if file.is_file():
        table = list(read_table(file, needs))
    elif file.is_dir() or "@" in file.name or str(file).startswith(HUB):
        source = open_source(str(file))
        table = list(source.read_range(0, len(source), needs))
    else:
        raise UsageError(f"{file}: no such file; give the folder of a `flex-judge curate` run, or {SOURCE_FORMS}")
    names = {name for _, row in table if not isinstance(row, UsageError) for name in row}
    present = tuple(
        (field, wanted)
        for field, wanted in columns.columns
        if names.intersection(wanted) and not (keeps_fields and field in names)
    )
    return [row if isinstance(row, UsageError) else read_cells(row) for row in _map_rows(table, ColumnMapping(present))]


def _map_rows(table: Iterable[LocatedRow], columns: ColumnMapping) -> Iterator[TrainingRow]:
    for where, row in table:
        if isinstance(row, UsageError) or not columns:
            yield row
            continue
        try:
            yield columns.map_row(where, row)
        except UsageError as e:
            yield e


def check_columns(columns: ColumnMapping, files: Mapping[str, Sequence[TrainingRow]]) -> None:
    """Check that every mapped column occurs in the training data or in the held-out judgments.

    Args:
        columns: The mapping.
        files: Rows by the name of their file, as `read_training_rows` returns them.

    Raises:
        UsageError: A column occurs in none of the files.
    """
    rows = [row for table in files.values() for row in table if not isinstance(row, UsageError)]
    names = {name: None for row in rows for name in row}
    for column in columns.list_columns():
        if column not in names and rows:
            raise UsageError(f"{' and '.join(files)}: {describe_missing_column(column, names)}")
