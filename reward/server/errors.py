"""Errors that explain why a request gets no judgments. The middleware maps each type to an HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.judges.errors import JudgeError, UsageError


class FieldError(UsageError):
    """Invalid field of a request. The message starts with the field, such as `samples[3].response`."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class RejectedError(FieldError):
    """Item of a request that the judge rejected, such as an image that its model cannot take."""

    def __init__(self, message: str, field: str = "", results: Sequence[Any] = ()) -> None:
        super().__init__(message, field)
        self.results = results
        """Results of all items of the request, in order, so that they are not lost; None for rejected items."""


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
    """A media host does not respond, or responds with an error that may be temporary."""
