"""The reference of statuses and errors, read from the classes that define them."""

from __future__ import annotations

import importlib
import inspect
import logging

from tables import code, describe_members, first_paragraph, table

from flex_judge import Status
from flex_judge.judges.errors import JudgeError, UsageError
from flex_judge.reward.server.middleware import build_error_response

INTERNAL_ERROR = 500
MODULES = (
    "flex_judge.judges.errors",
    "flex_judge.judges.extras",
    "flex_judge.reward.server.errors",
    "flex_judge.alignment.pipeline.job",
    "flex_judge.alignment.pipeline.worker",
)


def generate() -> str:
    """Write a table of the statuses of a judgment and one of the error classes."""
    return f"{_describe_statuses()}\n{_describe_errors()}"


def _describe_statuses() -> str:
    meanings = describe_members(Status)
    rows = [
        [
            code(status.value),
            meanings.get(name, "The judgment has scores."),
            "no" if status.is_final and status != Status.INVALID_INPUT else "yes",
        ]
        for name, status in Status.__members__.items()
    ]
    header = ["Status", "Meaning", "Judged again by a rerun"]
    return f"## Statuses of a judgment {{ #statuses }}\n\n{table(header, rows)}"


def _describe_errors() -> str:
    rows = [
        [
            code(error.__name__),
            ", ".join(code(base.__name__) for base in error.__bases__ if base is not Exception),
            "2" if issubclass(error, UsageError) else "1",
            _find_http_status(error),
            first_paragraph(error.__doc__),
        ]
        for error in list_errors()
    ]
    header = ["Error", "Base classes", "Exit status", "HTTP status", "Meaning"]
    return f"## Error classes {{ #errors }}\n\n{table(header, rows)}"


def _find_http_status(error: type[JudgeError]) -> str:
    """Return the status that the service answers with, empty for errors that it does not expect."""
    logging.disable(logging.CRITICAL)
    try:
        status = build_error_response(error("example")).status_code
    finally:
        logging.disable(logging.NOTSET)
    return "" if status == INTERNAL_ERROR else str(status)


def list_errors() -> list[type[JudgeError]]:
    """Return all error classes, in the order of the source."""
    errors = []
    for name in MODULES:
        module = importlib.import_module(name)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, JudgeError) and value.__module__ == name:
                errors.append(value)
    return errors
