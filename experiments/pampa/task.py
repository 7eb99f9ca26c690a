"""A table with SMILES and classes as questions about molecules, and answers as classes. Pure, but for the table.

The default is PAMPA_NCATS of TDC (Therapeutics Data Commons): whether a molecule passes an artificial membrane.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.errors import UsageError

SPLIT_SEED = 42
"""TDC's."""
TEST_SHARE = 0.2
SMILES_COLUMNS = ("Drug", "smiles", "SMILES")
LABEL_COLUMNS = ("Y", "label")
HIGH, LOW = "High permeability", "Low-to-moderate permeability"
CLASSES = (f"0={LOW}|Moderate permeability|Low permeability", f"1={HIGH}")
QUESTION = "How well does the molecule <mol> pass an artificial membrane by passive diffusion?"
STYLES = ("default", "cot", "task-info")
"""How a question is asked: as it is, with the reasoning asked for, and with what the task is told about."""
FINAL = "Final answer:"
ABOUT = (
    "In PAMPA, the parallel artificial membrane permeability assay, molecules diffuse from one well to another through "
    "a membrane of lipids; nothing carries them. Lipophilicity helps up to an optimum. A large polar surface, many "
    "donors and acceptors of hydrogen bonds, a charge at physiological pH, many rotatable bonds and a large molecular "
    "weight hinder."
)
_FINAL = re.compile(r"final\s+answer\s*:", re.IGNORECASE)
_GAPS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Molecule:
    """A row of the table."""

    id: str
    smiles: str
    label: str
    """The name of its class."""
    where: str


@dataclass(frozen=True)
class Task:
    """What is asked, and what can be answered."""

    classes: Mapping[str, tuple[str, ...]]
    """Value of the label -> the class's name, and other words for it."""
    question: str = QUESTION
    """With `<mol>` where the molecule is."""
    about: str = ABOUT
    """What the style `task-info` tells of the task."""

    @classmethod
    def of(cls, classes: Sequence[str], question: str = QUESTION, about: str = ABOUT) -> Task:
        """Out of texts `VALUE=NAME|OTHER WORDS`, as a command line gives them.

        Raises:
            UsageError: a text of another form, fewer than two classes, or a question without a place for the molecule.
        """
        known: dict[str, tuple[str, ...]] = {}
        for text in classes:
            value, equals, names = text.partition("=")
            words = tuple(name.strip() for name in names.split("|") if name.strip())
            if not equals or not value or not words:
                raise UsageError(f"--classes {text}: expected VALUE=NAME, such as 1='{HIGH}'")
            known[value] = words
        if len(known) < 2:
            raise UsageError("--classes: expected two classes or more")
        if question.count("<mol>") != 1:
            raise UsageError(f"--question: has {question.count('<mol>')} times <mol>; expected one, for the molecule")
        return cls(known, question, about)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of their values."""
        return tuple(words[0] for words in self.classes.values())

    def prompt(self, style: str) -> str:
        """The question as it is put to the policy."""
        options = " or ".join(f'"{FINAL} {name}"' for name in self.names)
        parts = [self.question]
        if style == "task-info":
            parts.append(self.about)
        if style != "default":
            parts.append("Go step by step through the properties of the molecule that matter for it.")
        return " ".join([*parts, f"End with {options}."])

    def answered(self, text: str) -> tuple[str | None, str]:
        """The class that an answer names, and what came of reading it: `answered`; `answered without the last line`
        where there is no `Final answer:`; `several classes` or `no class`, which are no answer."""
        last = _FINAL.split(text)[-1]
        marked = _FINAL.search(text) is not None
        found = [words[0] for words in self.classes.values() if any(_plain(one) in _plain(last) for one in words)]
        if len(found) == 1:
            return found[0], "answered" if marked else "answered without the last line"
        return None, "several classes" if found else "no class"


def _plain(text: str) -> str:
    """Lower case, with one space between words, before the first and after the last."""
    return f" {_GAPS.sub(' ', text.lower()).strip()} "


def read_molecules(path: Path, task: Task, smiles: str | None = None, label: str | None = None) -> list[Molecule]:
    """The rows of a table (.csv, .tsv, .tab, .parquet, .jsonl).

    Args:
        smiles, label: columns; None for those that TDC's tables have.

    Raises:
        UsageError: it cannot be read, a column is missing, or a row has no molecule or a label that is no class.
    """
    rows = _rows(path)
    first = rows[0][1]
    of_smiles, of_label = _column(path, first, smiles, SMILES_COLUMNS), _column(path, first, label, LABEL_COLUMNS)
    found = []
    for number, (where, row) in enumerate(rows, 1):
        value = row.get(of_label)
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if text not in task.classes:
            expected = ", ".join(task.classes)
            raise UsageError(f"{where}, column {of_label!r}: expected one of {expected}, got {value!r} (--classes)")
        molecule = row.get(of_smiles)
        if not isinstance(molecule, str) or not molecule.strip():
            raise UsageError(f"{where}, column {of_smiles!r}: expected a SMILES string, got {molecule!r}")
        found.append(Molecule(str(number), molecule.strip(), task.classes[text][0], where))
    return found


def split(molecules: Sequence[Molecule], seed: int = SPLIT_SEED) -> tuple[list[Molecule], list[Molecule]]:
    """Molecules to train on and to test with: TDC's random split, of which the part for validation is left with the
    first."""
    import pandas as pd

    numbers = pd.DataFrame({"number": range(len(molecules))})
    test = set(numbers.sample(frac=TEST_SHARE, replace=False, random_state=seed)["number"])
    return [m for i, m in enumerate(molecules) if i not in test], [molecules[i] for i in sorted(test)]


def majority(molecules: Sequence[Molecule]) -> tuple[str, float]:
    """The most frequent class, and how right one is who always says it."""
    name, count = Counter(molecule.label for molecule in molecules).most_common(1)[0]
    return name, count / len(molecules)


def _rows(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    import pandas as pd

    if path.suffix not in (".csv", ".tsv", ".tab", ".parquet", ".jsonl"):
        raise UsageError(f"{path}: expected a table that ends in .csv, .tsv, .tab, .parquet or .jsonl")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".jsonl":
            table = pd.read_json(path, lines=True)
        else:
            table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t")
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be read as a table: {' '.join(str(e).split())}") from e
    if table.empty:
        raise UsageError(f"{path}: holds no row")
    return [(f"{path}, row {i}", row) for i, row in enumerate(table.to_dict("records"), 1)]


def _column(path: Path, row: Mapping[str, Any], named: str | None, usual: Sequence[str]) -> str:
    found = named if named in row else None if named else next((one for one in usual if one in row), None)
    if found is None:
        raise UsageError(f"{path}: has no column {named or usual[0]!r}; there are {', '.join(map(str, row))}")
    return found
