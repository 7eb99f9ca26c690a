"""Media and tools in columns next to a prompt: `images`, `image`, `videos`, ..., `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flex_judge.judges.conversations.guards import convert_foreign_errors
from flex_judge.judges.conversations.messages import Message
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.conversations.values import is_no_medium, to_plain_value
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Modality

MEDIA_COLUMNS: Mapping[Modality, tuple[str, str]] = {m: (f"{m}s", str(m)) for m in Modality}
"""Modality -> names of the columns with a list of media, and with one medium."""
MEDIA_COLUMN_NAMES = tuple(name for names in MEDIA_COLUMNS.values() for name in names)
TOOLS_COLUMN = "tools"
PROMPT_COLUMNS = (*MEDIA_COLUMN_NAMES, TOOLS_COLUMN)
"""Columns that belong to the prompt of a row."""
_ARRAY_DIMENSIONS = {Modality.IMAGE: 3, Modality.VIDEO: 4}


def find_media(
    row: Mapping[str, Any], columns: Mapping[Modality, tuple[str, ...]] = MEDIA_COLUMNS
) -> dict[Modality, dict[str, Any]]:
    """Find the media columns of a row that have a value.

    Args:
        row: the row; other columns are ignored.
        columns: names of the columns of each modality.

    Returns:
        The sources of each modality, not opened yet, by their place in the row: the column, and the index in a list.

    Raises:
        UsageError: two columns of one modality have different values.
    """
    found: dict[Modality, dict[str, Any]] = {}
    for modality, names in columns.items():
        for name in names:
            sources = {name + place: source for place, source in _list_sources(row.get(name), modality).items()}
            if all(map(is_no_medium, sources.values())):
                continue
            earlier_sources = found.get(modality)
            if earlier_sources is None:
                found[modality] = sources
            elif not all(any(_is_same(a, b) for b in earlier_sources.values()) for a in sources.values()):
                other = next(iter(earlier_sources)).partition("[")[0]
                raise UsageError.at_field(name, f"differs from {other!r}, which has {modality}s too; keep one of them")
    return found


def read_row_prompt(
    reader: ConversationReader,
    row: Mapping[str, Any],
    prompt: str = "prompt",
    columns: Mapping[Modality, tuple[str, ...]] = MEDIA_COLUMNS,
    prefix: str = "",
) -> tuple[Message, ...]:
    """Read the prompt of a row with its media and tools.

    Args:
        reader: the reader.
        row: the row; columns other than the prompt, its media and `tools` are ignored.
        prompt: name of the column with text or messages.
        columns: names of the media columns.
        prefix: text before the names of fields in error messages.

    Raises:
        UsageError: the prompt has an unknown form; the error has a `field`.
        MediaError: a medium cannot be read; the error has a `field`.
    """
    with convert_foreign_errors(prefix + prompt):
        media = find_media(row, columns)
    named = {m: {prefix + name: source for name, source in sources.items()} for m, sources in media.items()}
    field, tools_field = prefix + prompt, prefix + TOOLS_COLUMN
    return reader.read_prompt(row.get(prompt), named, row.get(TOOLS_COLUMN), field=field, tools_field=tools_field)


def _list_sources(value: Any, modality: Modality) -> dict[str, Any]:
    """List the media in a column, which holds a list or one medium, by their place in the column."""
    plain = to_plain_value(value)
    dimensions = getattr(plain, "ndim", None)
    if dimensions is not None and dimensions == _ARRAY_DIMENSIONS.get(modality, 1) + 1:
        plain = list(plain)
    return {f"[{i}]": item for i, item in enumerate(plain)} if isinstance(plain, list) else {"": plain}


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two sources are equal, also for types that compare by element."""
    if a is b:
        return True
    try:
        return bool(a == b)
    except (TypeError, ValueError):
        return False
