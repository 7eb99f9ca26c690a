"""The PAMPA data as released with Mol-LLaMA (arXiv 2502.13449): `pampa.json` with prompts, molecules and a split."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.rows import MOLECULE_MARK
from flex_judge.experiments.studies.pampa.table import (
    Molecule,
    MoleculeTable,
    ReleasedFile,
    read_molecules,
    split_molecules,
)
from flex_judge.experiments.studies.pampa.task import ANSWERED, FINAL, ClassificationTask, normalise_label
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.text_files import read_text

SUFFIX = ".json"
TEST = "test"
STYLE_NAMES = {"default": "default", "cot": "rationale", "task-info": "task_info"}
"""Prompt style -> its name in the file."""
EXPECTED = "expected pampa.json of Mol-LLaMA: an object with 'data_list', 'split' and 'prompts'"


def load_split(
    path: Path, task: ClassificationTask, smiles: str | None = None, label: str | None = None
) -> tuple[MoleculeTable, list[Molecule], list[Molecule]]:
    """Read the molecules of a table or of the released file, and split them into training and test molecules.

    Args:
        path: `pampa.json`, or a table for `read_molecules`.
        task: Classification task with the classes.
        smiles: Column of the SMILES in a table.
        label: Column of the labels in a table.

    Raises:
        UsageError: The file is invalid.
    """
    if path.suffix != SUFFIX:
        table = read_molecules(path, task, smiles, label)
        return table, *split_molecules(table.molecules)
    table = read_released_file(path, task)
    assert table.released is not None
    return table, list(table.released.train), list(table.released.test)


def read_released_file(path: Path, task: ClassificationTask) -> MoleculeTable:
    """Read `pampa.json`.

    Rows of `data_list` have `smiles` and `answer` (the name of a class); atoms and coordinates are not used. `split`
    maps `test` and other names to row numbers from 0. `prompts` maps the styles to a system and a user message.

    Args:
        path: The file.
        task: Classification task with the classes.

    Raises:
        UsageError: The file cannot be read or has another form; the message names row and field.
    """
    content = _read_object(path)
    rows, split = content.get("data_list"), content.get("split")
    if not isinstance(rows, list) or not rows or not isinstance(split, Mapping):
        fields = ", ".join(map(str, content)) or "none"
        raise UsageError(f"{path}: {EXPECTED}; the fields are {fields}")
    molecules = [_parse_row(path, number, row, task) for number, row in enumerate(rows, 1)]
    numbers = {name: _parse_numbers(path, str(name), value, len(rows)) for name, value in split.items()}
    if not numbers.get(TEST):
        raise UsageError(f"{path}: field 'split': expected row numbers of {TEST!r}, got {', '.join(map(str, split))}")
    test = numbers[TEST]
    # Rows of no split are left out: they may be there because the authors dropped them.
    train = sorted({k for name, ks in numbers.items() if name != TEST for k in ks} - set(test))
    unused = len(rows) - len(set(test) | set(train))
    released = ReleasedFile(
        train=tuple(molecules[k] for k in train),
        test=tuple(molecules[k] for k in test),
        prompts=_parse_prompts(path, content.get("prompts")),
        has_conformers=any(isinstance(row, Mapping) and row.get("coordinates") for row in rows),
    )
    return MoleculeTable(molecules, {"is in no split": unused} if unused else {}, released)


def _read_object(path: Path) -> Mapping[str, Any]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path}: not JSON ({getattr(e, 'msg', e)}); {EXPECTED}") from e
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: {EXPECTED}, got {type(content).__name__}")
    return content


def _parse_row(path: Path, number: int, row: Any, task: ClassificationTask) -> Molecule:
    where = f"{path}, data_list, row {number}"
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: expected an object with smiles and answer, got {type(row).__name__}")
    smiles, answer = row.get("smiles"), row.get("answer")
    if not isinstance(smiles, str) or not smiles.strip():
        raise UsageError(f"{where}, field 'smiles': expected a SMILES string, got {reprlib.repr(smiles)}")
    label = normalise_label(answer)
    if label is not None and label in task.classes:
        name: str | None = task.classes[label][0]
    else:
        name, outcome = task.read_class(f"{FINAL} {answer}")
        name = name if outcome == ANSWERED else None
    if name is None:
        expected = ", ".join(map(repr, task.names))
        raise UsageError(
            f"{where}, field 'answer': expected one of {expected}, got {reprlib.repr(answer)}; "
            "name the classes with --classes"
        )
    return Molecule(str(number), smiles.strip(), name, where)


def _parse_numbers(path: Path, name: str, value: Any, count: int) -> list[int]:
    where = f"{path}, split, field {name!r}"
    if not isinstance(value, list):
        raise UsageError(f"{where}: expected a list of row numbers, got {type(value).__name__}")
    numbers: list[int] = []
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            raise UsageError(f"{where}: expected row numbers from 0 to {count - 1}, got {reprlib.repr(number)}")
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        repeated = next(number for number in numbers if numbers.count(number) > 1)
        raise UsageError(f"{where}: the row number {repeated} occurs more than once; remove the copies")
    return numbers


def _parse_prompts(path: Path, prompts: Any) -> dict[str, Sequence[Mapping[str, str]]]:
    """Parse the prompts: style -> messages. A style that the file lacks has none."""
    if prompts is None:
        return {}
    if not isinstance(prompts, Mapping):
        raise UsageError(f"{path}, field 'prompts': expected an object of styles, got {type(prompts).__name__}")
    messages: dict[str, Sequence[Mapping[str, str]]] = {}
    for style, name in STYLE_NAMES.items():
        texts = prompts.get(name)
        if texts is None:
            continue
        where = f"{path}, prompts, field {name!r}"
        system, user = (texts.get("system"), texts.get("user")) if isinstance(texts, Mapping) else (None, None)
        if not isinstance(user, str) or not isinstance(system, str | None):
            raise UsageError(f"{where}: expected an object with texts 'system' and 'user'")
        if user.count(MOLECULE_MARK) != 1 or MOLECULE_MARK in (system or ""):
            raise UsageError(
                f"{where}: expected {MOLECULE_MARK} once, in 'user'; found it {user.count(MOLECULE_MARK)} times"
            )
        turns = [{"role": "system", "content": system}] if system else []
        messages[style] = [*turns, {"role": "user", "content": user}]
    return messages
