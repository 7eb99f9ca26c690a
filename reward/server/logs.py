"""Logs of a service: settings, formats, and the file of all its processes."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import time
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import Metavar, settings_class

ROOT_LOGGER = "flex_judge"
TEXT_LOGGER = "flex_judge.texts"
"""Logger of prompts, responses and reasoning. It is off unless `log_texts` is set."""
OFF = logging.CRITICAL + 1
PRIVATE_MODE = 0o600
"""Mode of log files: names of keys and rubrics, and errors, are for the operator only."""
_PLAIN_VALUE = re.compile(r"[^\s\"=\x00-\x1f\x7f]+")

# Texts stay out of the log of every process, also of one that logs all messages.
logging.getLogger(TEXT_LOGGER).setLevel(OFF)


@settings_class
class LogConfig:
    """Log of a service: level, format and file."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged; debug includes probes of /healthz and /metrics."""
    log_format: Literal["text", "json"] = "text"
    """Format of the log: text lines, or one JSON object per line."""
    log_file: Annotated[str, Metavar("FILE")] | None = None
    """File to which the service appends its log, on each machine (default: NAME.log among the logs of Ray)."""
    log_texts: bool = False
    """Log the content of requests and answers too: prompts, responses and reasoning."""


class TextFormatter(logging.Formatter):
    """Formatter of lines such as `2026-01-31T12:00:00.000Z INFO gateway request route=/v1/judge status=200`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format a record. Control characters are escaped, so that no text can forge a line."""
        message = record.getMessage().translate(_ESCAPES)
        fields = [f"{name}={_format_value(value)}" for name, value in get_fields(record).items()]
        line = " ".join([format_time(record.created), record.levelname, self._process, message, *fields])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Formatter of one JSON object per line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        row = {
            "time": format_time(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **get_fields(record),
        }
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


class PrivateFileHandler(logging.handlers.WatchedFileHandler):
    """Handler that appends to a file of mode 0600, and reopens it after logrotate has moved it."""

    def _open(self) -> TextIOWrapper:
        # Unbuffered writes of whole lines in append mode: several processes share the file.
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def configure_logging(config: LogConfig, process: str, default_file: str | None = None) -> None:
    """Send the log of this process to its file, or to standard error without one. Replaces earlier settings.

    Args:
        config: the settings.
        process: name of the process in each line, such as `gateway`.
        default_file: file if the settings name none.

    Raises:
        UsageError: the file cannot be opened.
    """
    path = config.log_file or default_file
    handler = open_log_file(path) if path else logging.StreamHandler()
    handler.setFormatter(JsonFormatter(process) if config.log_format == "json" else TextFormatter(process))
    logger = logging.getLogger(ROOT_LOGGER)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(config.log_level.upper())
    logger.propagate = False
    logging.getLogger(TEXT_LOGGER).setLevel(logging.INFO if config.log_texts else OFF)


def open_log_file(path: str) -> logging.Handler:
    """Open a log file for appending.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        return PrivateFileHandler(path)
    except OSError as e:
        problem = f"cannot be written: {e.strerror or e}; choose a file in a folder that exists"
        raise UsageError(f"log_file {str(Path(path))!r} {problem}") from e


def get_fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields that a caller passed with `extra=with_fields(...)`."""
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def with_fields(**fields: Any) -> dict[str, Any]:
    """Build the `extra` of a log call with structured fields.

    Example:
        >>> log.info("request", extra=with_fields(route="/v1/judge", status=200))
    """
    return {"fields": fields}


def format_time(seconds: float) -> str:
    """Format a time in UTC with milliseconds, such as `2026-01-31T12:00:00.000Z`."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds % 1 * 1000):03d}Z"


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85)} | {c: f"\\u{c:x}" for c in (0x2028, 0x2029)}


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN_VALUE.fullmatch(text) and text.isascii() else json.dumps(text)
