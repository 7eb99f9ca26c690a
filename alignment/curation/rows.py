"""Rows as JudgeLM-100K (arXiv 2310.17631) has them: a question, two answers, and a reference score for each. Rows
of the same form may have more answers, which JudgeLM's have not."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from flex_judge.alignment.curation.scales import TEN, rescale_scores
from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.data.texts import replace_surrogates
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics.scale import Scale

_TEN = Scale.parse(TEN)
_BODY = re.compile(r"answer([1-9]\d?)_body")


class RowFault(StrEnum):
    """Why a row is left out before any teacher sees it."""

    NOT_AN_OBJECT = "not a JSON object"
    ERROR_TEXT = "marked as error"
    NO_QUESTION = "no question"
    EMPTY_ANSWER = "empty answer"
    WRONG_TYPE = "wrong type"
    NO_SCORE = "score missing"
    NOT_ALL_SCORES = "not a score for each answer"
    OUT_OF_SCALE = "score out of scale"
    NOT_THE_TASK = "not of the embedded task"
    NO_ANSWERS = "no list of answers"
    NO_TRUTH = "right answer missing"
    MORE_ANSWERS = "more than two answers"


class BadRowError(ValueError):
    """A row that is none; the message names its field."""

    def __init__(self, fault: StrEnum, detail: str) -> None:
        super().__init__(fault, detail)
        self.fault, self.detail = fault, detail


@dataclass(frozen=True)
class DropRecord:
    """Something that is left out."""

    row: int
    """Number of the row in its source, from 1."""
    reason: str
    detail: str
    """Where it stands, and what is wrong there."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ReferenceRow:
    """A question, two answers or more, and their reference scores."""

    id: str
    """Identity within the source: the row's number, or that and more where a row of the source gives several."""
    row: int
    """Number of the row in its source, from 1."""
    question: str
    answers: tuple[str, ...]
    scores: tuple[float, ...]
    scale: str = TEN
    where: str = ""
    """File and row, for messages."""

    def rescale_scores(self, scale: str) -> tuple[float, ...]:
        """The reference scores on a scale that theirs can be mapped to."""
        return rescale_scores(self.scores, self.scale, scale)


def read_reference_rows(source: Source, count: int | None = None) -> Iterator[ReferenceRow | DropRecord]:
    """The first rows of a source, or all; of those that are none, why."""
    stop = len(source) if count is None else min(count, len(source))
    for number, (where, data) in enumerate(source.read_range(0, stop), 1):
        try:
            yield _parse_row(data, number, where)
        except BadRowError as e:
            yield DropRecord(number, e.fault, f"{where}: {e.detail}")


def check_row(data: Mapping[str, Any] | UsageError) -> Mapping[str, Any]:
    """What a source read, if it is a row. Raises BadRowError if it is not."""
    if isinstance(data, UsageError):
        raise BadRowError(RowFault.NOT_AN_OBJECT, str(data))
    return data


def require_text(value: Any, name: str, missing: RowFault) -> str:
    """A text that is not empty, with no half of a surrogate pair in it, which no file of JSON lines could be loaded
    with. Raises BadRowError for anything else."""
    if value is None:
        raise BadRowError(missing, f"field {name!r} is missing")
    if not isinstance(value, str):
        raise BadRowError(RowFault.WRONG_TYPE, f"field {name!r}: expected text, got {reprlib.repr(value)}")
    said = value.strip()
    if not said:
        raise BadRowError(missing, f"field {name!r} is empty")
    if said.lower() == "error":
        raise BadRowError(RowFault.ERROR_TEXT, f"field {name!r} is {said!r}")
    return replace_surrogates(value)


def _parse_row(data: Mapping[str, Any] | UsageError, number: int, where: str) -> ReferenceRow:
    data = check_row(data)
    if isinstance(data.get("text"), str) and data["text"].strip().lower() == "error":
        raise BadRowError(RowFault.ERROR_TEXT, "field 'text' is 'error'")
    question = require_text(data.get("question_body"), "question_body", RowFault.NO_QUESTION)
    last = max(
        (int(found[1]) for name in data if (found := _BODY.fullmatch(name)) and data[name] is not None), default=0
    )
    names = [f"answer{k}_body" for k in range(1, max(2, last) + 1)]
    answers = tuple(require_text(data.get(name), name, RowFault.EMPTY_ANSWER) for name in names)
    return ReferenceRow(
        str(number), number, question, answers, _parse_scores(data.get("score"), len(answers)), where=where
    )


def _parse_scores(value: Any, count: int) -> tuple[float, ...]:
    if value is None:
        raise BadRowError(RowFault.NO_SCORE, "field 'score' is missing")
    if not isinstance(value, list | tuple):
        raise BadRowError(RowFault.WRONG_TYPE, f"field 'score': expected {count} numbers, got {reprlib.repr(value)}")
    if len(value) != count:
        raise BadRowError(RowFault.NOT_ALL_SCORES, f"field 'score': expected {count} numbers, got {len(value)}")
    for score in value:
        if score is None:
            raise BadRowError(RowFault.NO_SCORE, "field 'score': one is missing")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise BadRowError(RowFault.WRONG_TYPE, f"field 'score': expected numbers, got {reprlib.repr(score)}")
        if score not in _TEN:  # nor is what is not a number
            raise BadRowError(RowFault.OUT_OF_SCALE, f"field 'score': {reprlib.repr(score)} is not within {TEN}")
    return tuple(map(float, value))
