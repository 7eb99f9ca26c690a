"""Reference rows in the format of JudgeLM-100K (arXiv 2310.17631): a question, its answers and a score per answer.

JudgeLM-100K has two answers per row; this reader also accepts more.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.scales import TEN, rescale_scores
from flex_judge.alignment.data.texts import replace_surrogates
from flex_judge.judges.errors import UsageError, suggest_name
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping
from flex_judge.judges.rubrics.scale import Scale

if TYPE_CHECKING:
    from flex_judge.alignment.data.sources import Source

_TEN_SCALE = Scale.parse(TEN)
FIELDS = ("question_body", "answer1_body", "answer2_body", "score")
"""Fields of a row; further answers are `answer3_body` and so on."""
_ANSWER_FIELD = re.compile(r"answer([1-9]\d?)_body")


class RowFault(StrEnum):
    """Reason why a row is dropped before the teacher judges it."""

    UNREADABLE = "cannot be read"
    ERROR_TEXT = "marked as error"
    NO_QUESTION = "no question"
    EMPTY_ANSWER = "empty answer"
    WRONG_TYPE = "wrong type"
    NO_SCORE = "score missing"
    NOT_ALL_SCORES = "wrong number of scores"
    OUT_OF_SCALE = "score out of scale"
    NOT_THE_TASK = "not an embedded-task question"
    NO_ANSWERS = "no list of answers"
    NO_TRUTH = "right answer missing"
    MORE_ANSWERS = "more than two answers"


class BadRowError(ValueError):
    """Error for a row that cannot be used; the message names the field."""

    def __init__(self, fault: StrEnum, detail: str) -> None:
        super().__init__(fault, detail)
        self.fault, self.detail = fault, detail


@dataclass(frozen=True)
class DropRecord:
    """Record of a row, judgment or example that was dropped."""

    row: int
    """Row number in the source, from 1."""
    reason: str
    detail: str
    """File and row, and the problem that was found."""

    def to_json(self) -> dict[str, Any]:
        """Convert the record to a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class ReferenceRow:
    """Question with two or more answers and their reference scores."""

    id: str
    """Identifier within the source: the row number, with a suffix if one row of the source yields several."""
    row: int
    """Row number in the source, from 1."""
    question: str
    answers: tuple[str, ...]
    scores: tuple[float, ...]
    scale: str = TEN
    where: str = ""
    """File and row, for messages."""

    def rescale_scores(self, scale: str) -> tuple[float, ...]:
        """Map the reference scores to another scale; raise UsageError if that is not possible."""
        return rescale_scores(self.scores, self.scale, scale)


def read_reference_rows(
    source: Source, count: int | None = None, columns: ColumnMapping = NO_MAPPING
) -> Iterator[ReferenceRow | DropRecord]:
    """Read the rows of a source.

    Args:
        source: Source of the rows.
        count: Number of rows to read from the start; None reads all.
        columns: Columns of the source that hold fields under other names.

    Yields:
        A reference row, or a drop record for a row that cannot be used.
    """
    stop = len(source) if count is None else min(count, len(source))
    table = source.read_range(0, stop, columns.wrap_needs(_is_needed))
    for number, (where, data) in enumerate(columns.map_rows(table), 1):
        try:
            yield _parse_row(data, number, where)
        # A bad row does not end the run; it is counted and listed.
        except BadRowError as e:
            yield DropRecord(number, e.fault, f"{where}: {e.detail}")


def parse_reference_columns(arguments: Sequence[str]) -> ColumnMapping:
    """Parse `--column FIELD=COLUMN` for reference rows.

    Raises:
        UsageError: A field does not exist.
    """
    columns = ColumnMapping.from_arguments(arguments)
    for name, (column, *_) in columns.columns:
        if not _is_needed(name):
            raise UsageError(f"--column {name}={column}: there is no field {name!r}; {suggest_name(name, FIELDS)}")
    return columns


def _is_needed(name: str) -> bool:
    return name in ("question_body", "score", "text") or bool(_ANSWER_FIELD.fullmatch(name))


def check_row(data: Mapping[str, Any] | UsageError) -> Mapping[str, Any]:
    """Return the row that a source read, or raise BadRowError if the source failed to read it."""
    if isinstance(data, UsageError):
        raise BadRowError(RowFault.UNREADABLE, str(data))
    return data


def require_text(value: Any, name: str, missing: RowFault) -> str:
    """Return the text of a field.

    Unpaired surrogates are replaced, because JSON lines files with them cannot be loaded.

    Args:
        value: Value of the field.
        name: Name of the field, for messages.
        missing: Fault to report if the text is missing or empty.

    Raises:
        BadRowError: The value is missing, empty, not a text, or the marker "error".
    """
    if value is None:
        raise BadRowError(missing, f"field {name!r} is missing")
    if not isinstance(value, str):
        raise BadRowError(RowFault.WRONG_TYPE, f"field {name!r}: expected text, got {reprlib.repr(value)}")
    text = value.strip()
    if not text:
        raise BadRowError(missing, f"field {name!r} is empty")
    # JudgeLM-100K marks broken rows with the text "error".
    if text.lower() == "error":
        raise BadRowError(RowFault.ERROR_TEXT, f"field {name!r} is {text!r}")
    return replace_surrogates(value)


def _parse_row(data: Mapping[str, Any] | UsageError, number: int, where: str) -> ReferenceRow:
    data = check_row(data)
    if isinstance(data.get("text"), str) and data["text"].strip().lower() == "error":
        raise BadRowError(RowFault.ERROR_TEXT, "field 'text' is 'error'")
    question = require_text(data.get("question_body"), "question_body", RowFault.NO_QUESTION)
    # The highest answer number determines the count, so that a gap is reported as a missing answer. Parquet files have
    # null columns for answers that a row does not have.
    count = 2
    for name, value in data.items():
        if value is not None and (match := _ANSWER_FIELD.fullmatch(name)):
            count = max(count, int(match[1]))
    names = [f"answer{k}_body" for k in range(1, count + 1)]
    answers = tuple(require_text(data.get(name), name, RowFault.EMPTY_ANSWER) for name in names)
    scores = _parse_scores(data.get("score"), len(answers))
    return ReferenceRow(id=str(number), row=number, question=question, answers=answers, scores=scores, where=where)


def _parse_scores(value: Any, count: int) -> tuple[float, ...]:
    if value is None:
        raise BadRowError(RowFault.NO_SCORE, "field 'score' is missing")
    if not isinstance(value, list | tuple):
        raise BadRowError(RowFault.WRONG_TYPE, f"field 'score': expected {count} numbers, got {reprlib.repr(value)}")
    if len(value) != count:
        raise BadRowError(RowFault.NOT_ALL_SCORES, f"field 'score': expected {count} numbers, got {len(value)}")
    # Tables may store scores as decimals.
    scores = [float(score) if isinstance(score, Decimal) else score for score in value]
    for score in scores:
        if score is None:
            raise BadRowError(RowFault.NO_SCORE, f"field 'score': expected {count} numbers, but one is missing")
        # bool is a subclass of int.
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise BadRowError(RowFault.WRONG_TYPE, f"field 'score': expected numbers, got {reprlib.repr(score)}")
        if score not in _TEN_SCALE:  # NaN is outside of every scale
            raise BadRowError(RowFault.OUT_OF_SCALE, f"field 'score': {reprlib.repr(score)} is not within {TEN}")
    return tuple(map(float, scores))
