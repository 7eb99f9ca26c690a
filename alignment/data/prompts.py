"""Parsing of data set rows into prompts, with a mapping of columns and errors that name file, row and field."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.data.numbers import read_number, write_number
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.judges.conversations.columns import MEDIA_COLUMNS, PROMPT_COLUMNS, read_row_prompt
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.conversations.values import to_mapping, to_plain_value
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping, describe_missing_column, read_cells
from flex_judge.judges.io.json_rows import is_row_id
from flex_judge.judges.io.json_values import to_json_value
from flex_judge.judges.media.paths import MediaFolders, make_folder_opener
from flex_judge.judges.media.types import Modality
from flex_judge.judges.types import Message

if TYPE_CHECKING:
    from flex_judge.alignment.data.sources import Source

FIELDS = ("prompt", "id", "images", "videos", "audios", "molecules", "tools")
"""Fields of a prompt that can be mapped to other columns."""
_OWN_FIELDS = ("prompt", "id", "images")
"""Fields with a setting of their own."""
CHECKED_ROWS = 10_000
"""Number of rows in which a mapped column must occur: JSON lines may leave out media that a row does not have."""
MOLECULES = "molecules"
"""Column with SMILES strings of the molecules in the prompt."""


@dataclass(frozen=True)
class PromptColumns:
    """Mapping of the columns of a data set to the fields of a prompt."""

    prompt: str = "prompt"
    """Column with text or a list of messages. Assistant messages at the end are reference answers and are dropped."""
    id: str = "id"
    """Column with a string or integer; rows without an id get their row number, from 1."""
    images: str = "images"
    """Column with one image or a list of images; if it is missing, the column `image` is used, if any."""
    keep: tuple[str, ...] = ()
    """Columns that are copied to the results."""
    number: str | None = None
    """Another column to copy, which must contain a number or its text: the reference answer."""
    system: str | None = None
    """Text of a system message before every prompt; None adds none."""
    others: ColumnMapping = field(default=NO_MAPPING, repr=False)
    """Columns of other fields, such as `videos`."""

    @classmethod
    def from_arguments(
        cls, mapping: Sequence[str], keep: Sequence[str] = (), number: str | None = None, system: str | None = None
    ) -> PromptColumns:
        """Create the mapping from command-line arguments.

        Args:
            mapping: arguments of the form `FIELD=COLUMN`.
            keep: columns that are copied to the results.
            number: column with the reference answer.
            system: text of a system message.

        Raises:
            UsageError: an argument has another form, or its field is unknown.
        """
        columns = ColumnMapping.from_arguments(mapping, FIELDS)
        own_columns = {name: names[-1] for name, names in columns.columns if name in _OWN_FIELDS and len(names) == 1}
        others = ColumnMapping(tuple((name, names) for name, names in columns.columns if name not in own_columns))
        return cls(**own_columns, keep=tuple(keep), number=number, system=system, others=others)

    def needs_column(self, name: str) -> bool:
        """Return whether a column is read."""
        names = (self.prompt, self.id, self.images, *PROMPT_COLUMNS, *self.keep, self.number)
        return name in names or name in self.others.list_columns()

    def list_mapped(self) -> list[tuple[str, str]]:
        """List the columns with a name other than that of their field, as pairs of field and column."""
        own_columns = [(name, getattr(self, name)) for name in _OWN_FIELDS]
        others = [(name, column) for name, columns in self.others.columns for column in columns]
        return [(name, column) for name, column in own_columns if column != getattr(PromptColumns, name)] + others

    def check_columns(self, source: Source) -> None:
        """Check that the mapped columns occur in the first rows of a source.

        Raises:
            UsageError: one does not occur; its field would be missing in every row.
        """
        mapped = [column for _, column in self.list_mapped()]
        columns = [*mapped, *self.keep, *([self.number] if self.number else [])]
        existing, are_all_readable = find_columns(source, columns, columns.__contains__)
        for column in columns:
            if column not in existing and are_all_readable:  # a row that cannot be read may have the column
                raise UsageError(f"{source.name}: {describe_missing_column(column, existing)}")


def find_columns(source: Source, wanted: Collection[str], needs: Callable[[str], bool]) -> tuple[dict[str, None], bool]:
    """Find the columns of the first rows of a source, until all wanted ones are found.

    Args:
        source: the source.
        wanted: names of columns.
        needs: whether a column is read.

    Returns:
        The names of the columns, and whether all rows so far can be read.
    """
    names: dict[str, None] = {}
    are_all_readable = True
    for _, row in source.read_range(0, min(len(source), CHECKED_ROWS), needs) if wanted else ():
        if isinstance(row, UsageError):
            are_all_readable = False
        else:
            names |= dict.fromkeys(row)
        if names.keys() >= set(wanted):
            break
    return names, are_all_readable


def read_prompts(source: Source, start: int, stop: int, columns: PromptColumns) -> Iterator[PromptRow | UsageError]:
    """Read a range of rows as prompts.

    Args:
        source: source of the rows.
        start: index of the first row, from 0.
        stop: index after the last row.
        columns: mapping of columns.

    Yields:
        A prompt for each valid row, and a UsageError (not raised) for each invalid one.
    """
    for number, (where, data) in enumerate(source.read_range(start, stop, columns.needs_column), start + 1):
        if isinstance(data, UsageError):
            yield data
            continue
        try:
            yield parse_prompt_row(data, where, number, columns, source.folder)
        except UsageError as e:
            yield e


def parse_prompt_row(
    data: Mapping[str, Any], where: str, number: int, columns: PromptColumns, folder: MediaFolders
) -> PromptRow:
    """Parse one row into a prompt and load its media.

    Args:
        data: the row.
        where: file and row, which every error message starts with.
        number: row number, from 1.
        columns: mapping of columns.
        folder: folder that relative media paths refer to, or several that are searched in order.

    Raises:
        UsageError: the row is not a valid prompt.
        MediaError: a medium cannot be read.
    """
    aliases = {column: name for name, names in columns.others.columns for column in names}
    data = read_cells(data, {**aliases, columns.prompt: "prompt", columns.images: "images"})
    data = columns.others.map_row(where, data) if columns.others else data
    if data.get(columns.prompt) is None:
        fields = ", ".join(map(str, data)) or "none"
        raise UsageError(
            f"{where}, field {columns.prompt!r}: missing or null; the columns are {fields}; map another one with "
            "--column prompt=NAME"
        )
    row_id = data.get(columns.id)
    if row_id is None:
        row_id = number
    if not is_row_id(row_id):
        raise UsageError(f"{where}, field {columns.id!r}: expected a string or an integer, got {reprlib.repr(row_id)}")
    messages = _read_messages(data, where, columns, folder)
    if columns.system is not None:
        messages = _add_system(messages, columns.system)
    extra_columns = {column: _read_extra_column(data, column, where, to_json_value) for column in columns.keep}
    if columns.number is not None:
        extra_columns[columns.number] = _read_extra_column(data, columns.number, where, _convert_answer)
    return PromptRow(str(row_id), messages, extra_columns, where)


def _read_messages(
    data: Mapping[str, Any], where: str, columns: PromptColumns, folder: MediaFolders
) -> tuple[Message, ...]:
    """Read the prompt of a row and load its media."""
    reader = ConversationReader(make_folder_opener(folder))
    media_columns = {**MEDIA_COLUMNS, Modality.IMAGE: (columns.images, "image")}
    try:
        row = {**data, columns.prompt: _drop_final_answer(data[columns.prompt], columns.prompt)}
        return read_row_prompt(reader, row, columns.prompt, media_columns)
    except UsageError as e:
        raise e.locate(where) from e


def _add_system(messages: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Add a system message, or its text to one that holds only definitions of tools."""
    if messages[0].role == "system" and not messages[0].content:
        return (replace(messages[0], content=text), *messages[1:])
    return (Message("system", text), *messages)


def _drop_final_answer(prompt: Any, field: str) -> Any:
    """Drop assistant messages at the end, which are the data set's own answer, and what follows their tool calls."""
    prompt = to_plain_value(prompt)
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError.at_field(field, "expected text, got only white space")
        return prompt
    messages = [to_mapping(message) for message in prompt] if isinstance(prompt, list) else [None]
    roles = [message.get("role") for message in messages if message is not None]
    if len(roles) < len(messages):
        raise UsageError.at_field(field, f"expected text or a list of messages, got {reprlib.repr(prompt)}")
    end = len(prompt)
    while end and roles[end - 1] == "assistant":
        end -= 1
    if not end or roles[end - 1] == "system":
        raise UsageError.at_field(field, "expected a user message at the end, got none")
    return prompt[:end]


def _read_extra_column(data: Mapping[str, Any], name: str, where: str, convert: Callable[[Any], Any]) -> Any:
    """Return the converted value of a column that is copied to the results, which are JSON."""
    if name not in data:
        raise UsageError(
            f"{where}, field {name!r}: missing, but required for the results; the columns are {', '.join(data)}"
        )
    try:
        return convert(data[name])
    except UsageError as e:
        raise UsageError(f"{where}, field {name!r}: {e}") from e


def _convert_answer(value: Any) -> int | float | str:
    """Convert a right answer to a JSON value that reads as the same number."""
    return write_number(read_number(value))
