"""Why a request is not answered with judgments: each a type of its own, which the HTTP side gives its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.judges.errors import JudgeError, UsageError


class FieldError(UsageError):
    """One field of a request is wrong. The message begins with its place, such as `samples[3].response`."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field

    @classmethod
    def at_field(cls, field: str, problem: object) -> FieldError:
        return cls(f"{field}: {problem}", field)


class RejectedError(FieldError):
    """Something in a request cannot be judged as it is, which showed only when it was judged."""

    def __init__(self, message: str, field: str = "", results: Sequence[Any] = ()) -> None:
        super().__init__(message, field)
        self.results = results
        """What came of the whole request, in its order; None where it was refused. The rest is not lost."""


class MissingMediaError(UsageError):
    """A request refers to media that the service does not have, or has no longer."""

    def __init__(self, message: str, digests: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.digests = tuple(digests)


class RetryLaterError(JudgeError, ConnectionError):
    """The service has too much in hand, or takes nothing new. Nothing of the request was judged."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """When to come back, in seconds: an estimate."""


class MediaFetchError(JudgeError, ConnectionError):
    """A host of media that does not answer, or not well, this time."""
