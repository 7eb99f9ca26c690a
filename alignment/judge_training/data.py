"""The data of `flex-judge sft`: rows of a curated folder or of a file, as TRL takes them when they are tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.card import SPLITS
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.judge_training.encoding import EncodedExample, encode_examples
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table
from flex_judge.judges.protocol.rendering import Renderer

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN, HELD_OUT = SPLITS["train"], SPLITS["held_out"]
"""Files of a folder that `flex-judge curate` makes."""


@dataclass(frozen=True)
class JudgeTrainingData:
    """What a judge is trained on."""

    name: str
    rows: tuple[EncodedExample, ...]
    dropped: tuple[DropRecord, ...]

    @classmethod
    def from_rows(
        cls, name: str, rows: Sequence[Mapping[str, Any]], renderer: Renderer, max_length: int
    ) -> JudgeTrainingData:
        """Rows as training examples.

        Args:
            name: of their file.
            rows, renderer, max_length: see `flex_judge.alignment.judge_training.encoding.encode`.

        Raises:
            UsageError: no row is any good.
        """
        found, dropped = encode_examples(rows, renderer, max_length)
        if not found:
            first = f"; row {dropped[0].row}: {dropped[0].reason}: {dropped[0].detail}" if dropped else ""
            raise UsageError(f"{name}: holds no judgment to learn from{first}")
        return cls(name, tuple(found), tuple(dropped))

    @property
    def digest(self) -> str:
        """Changes with what is taught."""
        return hashlib.sha256(json.dumps([[row.row, row.input_ids] for row in self.rows]).encode()).hexdigest()[:16]

    @property
    def reason_first(self) -> bool:
        """Whether replies think before they answer."""
        return self.rows[0].reason_first

    @property
    def dataset(self) -> Dataset:
        from datasets import Dataset

        return Dataset.from_list([{"input_ids": list(r.input_ids), "labels": list(r.labels)} for r in self.rows])

    @property
    def longest_reply_tokens(self) -> int:
        """In tokens."""
        return max(sum(label >= 0 for label in row.labels) for row in self.rows)


def find_train_file(data: str) -> Path:
    """The file of the training examples: that of a curated folder, or the one that is named."""
    path = Path(data)
    return path / TRAIN if path.is_dir() else path


def find_held_out_file(data: str, named: str | None) -> Path | None:
    """The file of held-out judgments: the one that is named, or that of a curated folder if it has any.

    Raises:
        UsageError: the named one is not there.
    """
    if named is not None:
        if not Path(named).is_file():
            raise UsageError(f"--held-out: {named} does not exist")
        return Path(named)
    path = find_train_file(data).with_name(HELD_OUT)
    return path if Path(data).is_dir() and path.is_file() else None


def read_training_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file.

    Raises:
        UsageError: it is not there, or no table.
    """
    if not file.is_file():
        raise UsageError(
            f"{file}: no such file; give the folder of a `flex-judge curate` run, or a .jsonl or .parquet file"
        )
    return [row for _, row in read_table(file)]
