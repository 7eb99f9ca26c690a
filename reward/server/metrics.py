"""Interface for the metrics of a running service. Names and units are those that Prometheus shows."""

from __future__ import annotations

from flex_judge.judges.judgments import Judgment, Status


class ServiceMetrics:
    """Receiver of all events of a service. This base class discards them."""

    def set_pending(self, count: int) -> None:
        """Set the number of completions and comparisons that are accepted and have no result yet."""

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Record an HTTP request: its route (the pattern, not the path), response status, and duration."""

    def record_judgment(self, judgment: Judgment, seconds: float) -> None:
        """Record a judgment and its duration."""

    def record_invalid_row(self, status: Status) -> None:
        """Record a row that got a status before any judge saw it."""

    def record_retry(self) -> None:
        """Record a comparison that is sent again because its replica died."""
