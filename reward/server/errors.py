"""Errors that explain why a request gets no judgments. The middleware maps each type to an HTTP status.

An error that concerns one row only becomes the status of its result, see `flex_judge.reward.server.row_failures`.
"""

from __future__ import annotations

from collections.abc import Sequence

from flex_judge.judges.errors import JudgeError, UsageError


class FieldError(UsageError):
    """Invalid field of a request. The message starts with the field, such as `samples[3].response`."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class MissingMediaError(UsageError):
    """A request refers to media that were never uploaded, or were evicted."""

    def __init__(self, message: str, digests: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.digests = tuple(digests)


class RetryLaterError(JudgeError, ConnectionError):
    """The service is overloaded or shutting down. Nothing of the request was judged."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Estimated seconds until a retry can succeed."""


class MediaFetchError(JudgeError, ConnectionError):
    """A media host does not respond, or responds with an error that may be temporary. Costs its row only."""
