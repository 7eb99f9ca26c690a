"""Errors of the judge. Each inherits from a built-in error type too, and its message says what to do.

All errors take a single message, so they can be pickled and sent between processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self


class JudgeError(Exception):
    """Base class of all errors that this project raises on purpose."""


class UsageError(JudgeError, ValueError):
    """Invalid input that the user can fix: a flag, a file, a missing package. The command line exits with status 2."""

    setting: str | None = None
    """Name of the setting with the invalid value, if the error concerns one."""
    field: str = ""
    """Field of the input with the invalid value, such as `prompt[1].content`; the message then starts with it."""

    @classmethod
    def at_field(cls, field: str, problem: object) -> Self:
        """Create an error whose message is the field and its problem."""
        error = cls(f"{field}: {problem}")
        error.field = field
        return error

    @classmethod
    def of_setting(cls, setting: str, message: str) -> Self:
        """Create an error of a setting, whose message contains the setting's name."""
        error = cls(message)
        error.setting = setting
        return error

    @property
    def problem(self) -> str:
        """The message without the field."""
        return str(self).removeprefix(f"{self.field}: ") if self.field else str(self)

    def locate(self, where: str) -> Self:
        """Create an error of the same type whose message names the row too, such as `file, row 3, field 'prompt'`."""
        return type(self)(f"{where}, field {self.field!r}: {self.problem}")


class ModelNotFoundError(UsageError):
    """Model name that is neither embedded, nor a local folder, nor reachable on the hub."""


class EngineUnavailableError(UsageError, ImportError):
    """Engine that does not exist, or whose package is not installed."""


class AdapterError(UsageError):
    """LoRA adapter that a running judge cannot load: it does not fit, or the engine is not set up for it."""


class SleepError(UsageError):
    """Judge that cannot be put to sleep or woken: it is not set up for it, or its memory or files are not there."""


class ClusterError(UsageError, ConnectionError):
    """Ray cluster that does not answer or has too few resources."""


class MediaError(UsageError):
    """Image, video, audio or molecule that cannot be read, is too large, or is not supported by the model."""


class LedgerError(UsageError):
    """Ledger file that cannot be read or written, or is not a ledger."""


class StorageError(JudgeError, OSError):
    """File that cannot be written: a full disk or quota, a folder that is gone or read-only. Finished work is kept."""


class NotRecordedError(JudgeError, ValueError):
    """Replayed request that is missing from the ledger."""


class RenderError(JudgeError, ValueError):
    """Chat template or tokenizer that loses, repeats or rewrites text."""


class VerdictParseError(JudgeError, ValueError):
    """Reply without a verdict of the requested form and scale."""


class EngineLostError(JudgeError, RuntimeError):
    """Engine, or process of an engine, that died. The request may be retried on another replica."""


class EngineAsleepError(JudgeError, RuntimeError):
    """Engine that sleeps, so that other work can use its memory. It must be woken before it computes."""


class GenerationError(JudgeError, RuntimeError):
    """Request that the engine failed to compute, although it still computes others."""


class ServiceUnavailableError(JudgeError, ConnectionError):
    """Judge service that repeatedly does not answer or returns no judgments."""


class ServiceTimeoutError(ServiceUnavailableError, TimeoutError):
    """Judge service that did not answer within the deadline, for the first time in a row; the next call may succeed."""


class AccessError(UsageError, PermissionError):
    """Service or endpoint that rejects the API key, or has no such model or path."""


class IncompatibleVersionError(UsageError):
    """Client and judge service whose wire formats differ in their major version."""


class RequestTooLargeError(UsageError):
    """Request above the size limit of a judge service."""


class UnscoredError(JudgeError, ValueError):
    """Completion without a score, for a trainer that cannot leave it out."""


SETUP_ERRORS = (
    AccessError,
    ClusterError,
    EngineUnavailableError,
    IncompatibleVersionError,
    LedgerError,
    ModelNotFoundError,
)
"""Types of UsageError that concern the setup of a judge, and with it every comparison."""


INPUT_ERRORS = (UsageError, RenderError, MemoryError, RecursionError)
"""Types of errors that may concern one comparison only, see `is_input_error`."""


def is_input_error(error: BaseException) -> bool:
    """Return whether an error of judging one comparison concerns this comparison only."""
    # A huge or deeply nested row exhausts memory or stack for itself; the next row may be small.
    return isinstance(error, INPUT_ERRORS) and not isinstance(error, SETUP_ERRORS)


def describe_input_error(error: BaseException) -> str:
    """Describe an error of one input, see `is_input_error`, in one line."""
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return to_one_line(error)


def to_one_line(error: object) -> str:
    """Format an error or any other text as a single line, with runs of white space collapsed."""
    return " ".join(str(error).split())


def get_first_line(error: Exception, max_length: int = 120) -> str:
    """Return the start of an error's first line, or the name of its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:max_length]


def find_similar_name(name: str, valid_names: Iterable[str]) -> str | None:
    """Find the valid name that an unknown one is probably a misspelling of."""
    names = list(valid_names)
    matches = get_close_matches(name, names, n=1) or get_close_matches(name.lower(), names, n=1)
    return matches[0] if matches else None


def hint_similar_name(name: str, valid_names: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` for the middle of an error message; empty if no valid name is similar."""
    similar = find_similar_name(name, valid_names)
    return f" (did you mean {similar!r}?)" if similar else ""


def suggest_name(name: str, valid_names: Iterable[str]) -> str:
    """Suggest a valid name for an unknown one, as the end of an error message."""
    names = list(valid_names)
    similar = find_similar_name(name, names)
    return f"did you mean {similar!r}?" if similar else f"expected one of {', '.join(names)}"
