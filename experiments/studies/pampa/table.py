"""Table of molecules with classes, read and split like the tables of TDC (Therapeutics Data Commons)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.experiments.studies.pampa.task import ClassificationTask, normalise_label
from flex_judge.judges.errors import UsageError, to_one_line

if TYPE_CHECKING:
    import pandas as pd

SPLIT_SEED = 42
"""Seed of TDC's random split."""
TEST_SHARE = 0.2
SMILES_COLUMNS = ("Drug", "smiles", "SMILES")
LABEL_COLUMNS = ("Y", "label")
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class Molecule:
    """Molecule with its class."""

    id: str
    smiles: str
    label: str
    """Name of the class."""
    where: str
    """File and row, for messages."""


@dataclass(frozen=True)
class MoleculeTable:
    """Molecules of a file, with counts of the dropped rows."""

    molecules: Sequence[Molecule]
    left_out: Mapping[str, int]
    """Number of dropped rows by reason."""
    released: ReleasedFile | None = None
    """Split and prompts of the released file; None for a table."""


@dataclass(frozen=True, kw_only=True)
class ReleasedFile:
    """Split and prompts of the released file."""

    train: tuple[Molecule, ...]
    """Molecules of every other part of the split than the test part."""
    test: tuple[Molecule, ...]
    prompts: Mapping[str, Sequence[Mapping[str, str]]]
    """Prompt style -> messages with `<mol>`."""
    has_conformers: bool
    """Whether the file has coordinates, which are not used: the model computes its own from the SMILES."""


def read_molecules(
    path: Path, task: ClassificationTask, smiles: str | None = None, label: str | None = None
) -> MoleculeTable:
    """Read the molecules of a .csv, .tsv, .tab, .parquet or .jsonl file.

    Duplicate rows and rows without a label are dropped, as TDC does.

    Args:
        path: File to read.
        task: Classification task with the classes.
        smiles: Column of the SMILES; None for the column of TDC's tables.
        label: Column of the labels; None for the column of TDC's tables.

    Raises:
        UsageError: The file cannot be read, a column is missing, or a row has no molecule or an unknown class.
    """
    table = _load_frame(path)
    smiles_column = _find_column(path, table, smiles, SMILES_COLUMNS)
    label_column = _find_column(path, table, label, LABEL_COLUMNS)
    dropped = {"repeats another row": 0, "has no label": 0}
    molecules, seen = [], set()
    for number, row in enumerate(table.to_dict("records"), 1):
        where, cells = f"{path}, row {number}", tuple(map(str, row.values()))
        value, molecule = normalise_label(row[label_column]), row[smiles_column]
        # Whole rows are compared, so two measurements of the same molecule both stay.
        if cells in seen:
            dropped["repeats another row"] += 1
        elif value is None:
            dropped["has no label"] += 1
        elif value not in task.classes:
            expected = ", ".join(task.classes)
            raise UsageError(
                f"{where}: column {label_column!r}: expected one of {expected}, got {value!r}; "
                "name the classes with --classes"
            )
        elif not isinstance(molecule, str) or not molecule.strip():
            raise UsageError(f"{where}: column {smiles_column!r}: expected a SMILES string, got {molecule!r}")
        else:
            molecules.append(Molecule(str(number), molecule.strip(), task.classes[value][0], where))
        seen.add(cells)
    if not molecules:
        raise UsageError(f"{path}: no row has a label")
    return MoleculeTable(molecules, {reason: count for reason, count in dropped.items() if count})


def split_molecules(molecules: Sequence[Molecule], seed: int = SPLIT_SEED) -> tuple[list[Molecule], list[Molecule]]:
    """Split molecules into training and test molecules as TDC's random split does.

    TDC's validation split is part of the training molecules here.

    Raises:
        UsageError: There are too few molecules for two parts.
    """
    import pandas as pd

    # TDC samples with pandas, so the same split needs the same call.
    numbers = pd.DataFrame({"number": range(len(molecules))})
    test = set(numbers.sample(frac=TEST_SHARE, replace=False, random_state=seed)["number"])
    if not test:
        raise UsageError(f"{len(molecules)} molecules are too few; the test split takes a fifth of them")
    return [m for i, m in enumerate(molecules) if i not in test], [molecules[i] for i in sorted(test)]


def exclude_test_molecules(train: Sequence[Molecule], test: Sequence[Molecule]) -> list[Molecule]:
    """Drop training molecules that are also test molecules, possibly under another SMILES string."""
    test_smiles = {_canonicalise_smiles(molecule.smiles) for molecule in test}
    return [molecule for molecule in train if _canonicalise_smiles(molecule.smiles) not in test_smiles]


def sample_molecules(molecules: Sequence[Molecule], count: int | None, seed: int) -> list[Molecule]:
    """Sample molecules at random, in table order; None takes all."""
    if count is None or count >= len(molecules):
        return list(molecules)
    return [molecules[i] for i in sorted(random.Random(seed).sample(range(len(molecules)), count))]


def find_majority_class(molecules: Sequence[Molecule]) -> tuple[str, float]:
    """Find the most frequent class, and the accuracy of always answering it."""
    name, count = Counter(molecule.label for molecule in molecules).most_common(1)[0]
    return name, count / len(molecules)


def _canonicalise_smiles(smiles: str) -> str:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return smiles if molecule is None else str(Chem.MolToSmiles(molecule))


def _load_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.suffix not in (*_SEPARATORS, ".parquet", ".jsonl"):
        raise UsageError(f"{path}: unknown format; expected a .csv, .tsv, .tab, .parquet or .jsonl file")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".jsonl":
            table = pd.read_json(path, lines=True, dtype=False)
        else:
            # Keep every cell as text: by default pandas reads "None" and "NA" as missing values.
            # A trailing separator would otherwise turn the first column into the index.
            options: Any = {"dtype": str, "keep_default_na": False, "index_col": False}
            table = pd.read_csv(path, sep=_SEPARATORS[path.suffix], **options)
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be read as a table: {to_one_line(e)}") from e
    if table.empty:
        raise UsageError(f"{path}: the table has no rows")
    return table


def _find_column(path: Path, table: Any, name: str | None, defaults: Sequence[str]) -> str:
    columns = [str(column) for column in table.columns]
    candidates = [name] if name else [default for default in defaults if default in columns]
    if not candidates or candidates[0] not in columns:
        expected = repr(name) if name else "one of " + ", ".join(map(repr, defaults))
        raise UsageError(f"{path}: the columns are {', '.join(columns)}; expected {expected}")
    return candidates[0]
