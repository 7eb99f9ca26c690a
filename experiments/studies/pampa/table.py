"""A table with SMILES and classes: read as TDC (Therapeutics Data Commons) reads its own, and split as it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.experiments.studies.pampa.task import ClassificationTask, normalise_label
from flex_judge.judges.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

SPLIT_SEED = 42
"""TDC's."""
TEST_SHARE = 0.2
SMILES_COLUMNS = ("Drug", "smiles", "SMILES")
LABEL_COLUMNS = ("Y", "label")
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class Molecule:
    """A row of the table."""

    id: str
    smiles: str
    label: str
    """The name of its class."""
    where: str


@dataclass(frozen=True)
class MoleculeTable:
    """What a file holds."""

    molecules: Sequence[Molecule]
    left_out: Mapping[str, int]
    """Why rows are no molecules of it, and how many."""


def read_molecules(
    path: Path, task: ClassificationTask, smiles: str | None = None, label: str | None = None
) -> MoleculeTable:
    """The molecules of a file (.csv, .tsv, .tab, .parquet, .jsonl). Rows that repeat another in every column are left
    out, and those without a label, as TDC does.

    Args:
        smiles, label: columns; None for those that TDC's tables have.

    Raises:
        UsageError: it cannot be read, a column is missing, or a row has no molecule or a label that is no class.
    """
    table = _load_frame(path)
    of_smiles, of_label = (
        _find_column(path, table, smiles, SMILES_COLUMNS),
        _find_column(path, table, label, LABEL_COLUMNS),
    )
    left_out = {"repeats another row": 0, "has no label": 0}
    found, seen = [], set()
    for number, row in enumerate(table.to_dict("records"), 1):
        where, whole = f"{path}, row {number}", tuple(map(str, row.values()))
        value, molecule = normalise_label(row[of_label]), row[of_smiles]
        if whole in seen:
            left_out["repeats another row"] += 1
        elif value is None:
            left_out["has no label"] += 1
        elif value not in task.classes:
            expected = ", ".join(task.classes)
            raise UsageError(f"{where}, column {of_label!r}: expected one of {expected}, got {value!r} (--classes)")
        elif not isinstance(molecule, str) or not molecule.strip():
            raise UsageError(f"{where}, column {of_smiles!r}: expected a SMILES string, got {molecule!r}")
        else:
            found.append(Molecule(str(number), molecule.strip(), task.classes[value][0], where))
        seen.add(whole)
    if not found:
        raise UsageError(f"{path}: holds no row with a label")
    return MoleculeTable(found, {why: count for why, count in left_out.items() if count})


def split_molecules(molecules: Sequence[Molecule], seed: int = SPLIT_SEED) -> tuple[list[Molecule], list[Molecule]]:
    """Molecules to train on and to test with: TDC's random split, of which the part for validation is left with the
    first.

    Raises:
        UsageError: there are too few for both parts.
    """
    import pandas as pd

    numbers = pd.DataFrame({"number": range(len(molecules))})
    test = set(numbers.sample(frac=TEST_SHARE, replace=False, random_state=seed)["number"])
    if not test:
        raise UsageError(f"{len(molecules)} molecules are too few: a fifth of them is to test with")
    return [m for i, m in enumerate(molecules) if i not in test], [molecules[i] for i in sorted(test)]


def exclude_test_molecules(train: Sequence[Molecule], test: Sequence[Molecule]) -> list[Molecule]:
    """Those to train on that are none of those to test with, however they are written."""
    tested = {_canonicalise_smiles(molecule.smiles) for molecule in test}
    return [molecule for molecule in train if _canonicalise_smiles(molecule.smiles) not in tested]


def find_majority_class(molecules: Sequence[Molecule]) -> tuple[str, float]:
    """The most frequent class, and how right one is who always says it."""
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
        raise UsageError(f"{path}: expected a table that ends in .csv, .tsv, .tab, .parquet or .jsonl")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix == ".jsonl":
            table = pd.read_json(path, lines=True, dtype=False)
        else:  # every cell as it stands there: pandas takes "None" or "NA" for nothing
            how: Any = {"dtype": str, "keep_default_na": False, "index_col": False}
            table = pd.read_csv(path, sep=_SEPARATORS[path.suffix], **how)
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be read as a table: {' '.join(str(e).split())}") from e
    if table.empty:
        raise UsageError(f"{path}: holds no row")
    return table


def _find_column(path: Path, table: Any, named: str | None, usual: Sequence[str]) -> str:
    known = [str(name) for name in table.columns]
    wanted = [named] if named else [one for one in usual if one in known]
    if not wanted or wanted[0] not in known:
        raise UsageError(f"{path}: has no column {named or usual[0]!r}; there are {', '.join(known)}")
    return wanted[0]
