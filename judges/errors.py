"""Errors of the judge. Each also inherits from the built-in error it is a kind of, and says what to do.

All of them take one message, so they pickle across processes.
"""


class JudgeError(Exception):
    """Base of every error this project raises on purpose."""


class UsageError(JudgeError, ValueError):
    """Something the user can mend: a flag, a file, a missing package. The command line exits with status 2."""

    setting: str | None = None
    """Name of the setting that has a wrong value, if one has."""


class ModelNotFoundError(UsageError):
    """A model name that is neither known, nor a local folder, nor reachable on the hub."""


class EngineUnavailableError(UsageError, ImportError):
    """An engine whose package is not installed, or an engine name that does not exist."""


class ClusterError(UsageError, ConnectionError):
    """A Ray cluster that does not answer or cannot hold what was asked of it."""


class MediaError(UsageError):
    """An image, video, audio or molecule that cannot be read, is too large, or that the model cannot take."""


class LedgerError(UsageError):
    """A ledger file that cannot be read or written, or is none."""


class NotRecordedError(JudgeError, ValueError):
    """A request that is replayed from a ledger but is not in it."""


class RenderError(JudgeError, ValueError):
    """A chat template that loses, repeats or rewrites the text it is given."""


class VerdictParseError(JudgeError, ValueError):
    """A reply that holds no verdict of the form and scale that was asked for."""


class EngineLostError(JudgeError, RuntimeError):
    """The engine (or the process that holds it) died; the request may be tried elsewhere."""


class ServiceUnavailableError(JudgeError, ConnectionError):
    """A judge service that does not answer, or judges nothing, call after call."""


class ServiceTimeoutError(ServiceUnavailableError, TimeoutError):
    """The first call in a row that got nothing from a judge service within its deadline; the next may fare better."""


class AccessError(UsageError, PermissionError):
    """A judge service that wants another API key than it was given."""


class RequestTooLargeError(UsageError):
    """More in one request than a judge service takes."""


class UnscoredError(JudgeError, ValueError):
    """A completion without a score, where the caller's trainer has no way to leave it out."""


def to_one_line(error: object) -> str:
    """Return the text of an error, or any other text, with all white space as single spaces."""
    return " ".join(str(error).split())
