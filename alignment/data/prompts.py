"""From a row of any data set to a prompt: which column is what, and what is wrong with a row that is none."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.rows import MOLECULE_MARK, PromptRow
from flex_judge.alignment.data.sources import Source
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.paths import resolve_media_paths, resolve_source_path
from flex_judge.judges.types import Comparison

FIELDS = ("prompt", "id", "images")
MOLECULES = "molecules"
"""The column with SMILES strings, of which each has a place in the prompt."""
_PLACES = re.compile(f"((?:{re.escape(MOLECULE_MARK)})+)")
TOKENS_PER_MOLECULE = 8
"""Times that a place is written in data which were made for a model's own tokens."""


@dataclass(frozen=True)
class PromptColumns:
    """Which column of a data set is what."""

    prompt: str = "prompt"
    """Text, or a list of messages. What an assistant says at its end is an answer of the data set's, and left out."""
    id: str = "id"
    """Text or whole number; rows without one are known by their number, from 1."""
    images: str = "images"
    """A list of images, or one; may be missing. `image` is read where this one is missing."""
    keep: tuple[str, ...] = ()
    """Columns that are carried along into the results."""
    number: str | None = None
    """A column that is kept as well, and must hold a number, perhaps as text: the right answer."""
    system: str | None = None
    """Text that stands before every prompt as system message; None for none."""

    @classmethod
    def from_arguments(
        cls, mapping: Sequence[str], keep: Sequence[str] = (), number: str | None = None, system: str | None = None
    ) -> PromptColumns:
        """Out of texts `FIELD=COLUMN`, as a command line gives them.

        Raises:
            UsageError: a text of another form, or an unknown field.
        """
        known: dict[str, str] = {}
        for text in mapping:
            name, equals, column = text.partition("=")
            if not equals or not column or name not in FIELDS:
                raise UsageError(f"--column {text}: expected FIELD=COLUMN with a field of {', '.join(FIELDS)}")
            known[name] = column
        return cls(**known, keep=tuple(keep), number=number, system=system)


def read_prompts(source: Source, start: int, stop: int, columns: PromptColumns) -> Iterator[PromptRow | UsageError]:
    """The rows of a stretch of a source; of a row that is none, what is wrong with it.

    Args:
        start, stop: numbers of rows from 0, `stop` not included.
    """
    for number, (where, data) in enumerate(source.read_range(start, stop), start + 1):
        if isinstance(data, UsageError):
            yield data
            continue
        try:
            yield parse_prompt_row(data, where, number, columns, source.folder)
        except UsageError as e:
            yield e


def parse_prompt_row(
    data: Mapping[str, Any], where: str, number: int, columns: PromptColumns, folder: Path
) -> PromptRow:
    """One row as a prompt, its media read.

    Args:
        where: file and row, which every message begins with.
        number: of the row, from 1.
        folder: where relative paths of media start from.

    Raises:
        UsageError: the row is no prompt, or has media that cannot be read.
    """
    if data.get(columns.prompt) is None:
        known = ", ".join(map(str, data))
        raise UsageError(f"{where}: field {columns.prompt!r} is missing; there are {known or 'none'} (--column)")
    name = data.get(columns.id)
    if name is None:
        name = number
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise UsageError(f"{where}, field {columns.id!r}: expected a text or a whole number, got {reprlib.repr(name)}")
    try:
        prompt = resolve_media_paths(
            folder, insert_molecules(_drop_final_answer(data[columns.prompt]), data.get(MOLECULES))
        )
        images = [resolve_source_path(folder, image) for image in _list_images(data, columns)]
        messages = Comparison.of(prompt, "", images=images).prompt
    except UsageError as e:  # a MediaError is one, and stays one
        raise type(e)(f"{where}, field {columns.prompt!r}: {str(e).removeprefix('prompt: ')}") from e
    if columns.system is not None:
        messages = (*Comparison.of([{"role": "system", "content": columns.system}], "").prompt, *messages)
    kept = {column: _read_extra_column(data, column, where) for column in columns.keep}
    if columns.number is not None:
        kept[columns.number] = _parse_number(
            _read_extra_column(data, columns.number, where), f"{where}, field {columns.number!r}"
        )
    return PromptRow(str(name), messages, kept, where)


def insert_molecules(prompt: Any, molecules: Any) -> Any:
    """A prompt with molecules in their places: `<mol>` in its text, once for each, or EXPANDED times in a row.

    Args:
        prompt: text or messages.
        molecules: SMILES strings in the order of their places; None, where the text is all there is.

    Raises:
        UsageError: there are more or fewer places than molecules.
    """
    if molecules is None:
        return prompt
    if not isinstance(molecules, list) or not all(isinstance(one, str) for one in molecules):
        raise UsageError(f"expected a list of SMILES in {MOLECULES!r}, got {reprlib.repr(molecules)}")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    runs = [len(run) // len(MOLECULE_MARK) for m in messages for run in _PLACES.findall(_join_texts(m.get("content")))]
    once, given = sum(runs) == len(molecules), iter(molecules)
    if not once and (
        sum(runs) != len(molecules) * TOKENS_PER_MOLECULE or any(run % TOKENS_PER_MOLECULE for run in runs)
    ):
        raise UsageError(f"has {sum(runs)} times {MOLECULE_MARK} for {len(molecules)} molecules")

    def split_at_places(content: Any) -> Any:
        if isinstance(content, list):
            return [part for one in content for part in (split_at_places(one["text"]) if _is_text_part(one) else [one])]
        if not isinstance(content, str):
            return content  # what is wrong with it is said by whoever reads the message
        parts: list[Any] = []
        for piece in _PLACES.split(content):
            if piece.startswith(MOLECULE_MARK):
                count = len(piece) // len(MOLECULE_MARK) // (1 if once else TOKENS_PER_MOLECULE)
                parts += [{"type": "molecule", "smiles": next(given)} for _ in range(count)]
            elif piece:
                parts.append({"type": "text", "text": piece})
        return parts

    return (
        [{**message, "content": split_at_places(message.get("content"))} for message in messages]
        if molecules
        else prompt
    )


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _join_texts(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if _is_text_part(part))
    return content if isinstance(content, str) else ""


def _drop_final_answer(prompt: Any) -> Any:
    """The prompt up to what is to be answered."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError("expected text, got nothing but white space")
        return prompt
    if not isinstance(prompt, list) or not all(isinstance(m, Mapping) for m in prompt):
        raise UsageError(f"expected text or a list of messages, got {reprlib.repr(prompt)}")
    asked = [i for i, message in enumerate(prompt) if message.get("role") != "assistant"]
    if not asked or prompt[asked[-1]].get("role") == "system":
        raise UsageError("no message of a user's in it")
    return prompt[: asked[-1] + 1]


def _read_extra_column(data: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in data:
        raise UsageError(f"{where}: field {name!r}, which is to be kept, is missing; there are {', '.join(data)}")
    try:
        json.dumps(data[name])
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where}, field {name!r}: cannot be kept: {e}") from e
    return data[name]


def _parse_number(value: Any, where: str) -> float:
    """A number, or a text that is one, with or without commas between thousands."""
    if isinstance(value, str):
        try:
            return float(value.replace(",", ""))
        except ValueError:
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise UsageError(f"{where}: expected a number, got {reprlib.repr(value)}")


def _list_images(data: Mapping[str, Any], columns: PromptColumns) -> list[Any]:
    found = data.get(columns.images)
    if found is None:
        found = data.get("image")
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]
