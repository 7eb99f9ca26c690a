"""What a service tells of itself while it runs. Names and units are those that Prometheus shows."""

from __future__ import annotations

from flex_judge.judges.judgments import Judgment


class ServiceMetrics:
    """Told of everything that happens; this one keeps nothing."""

    def set_pending(self, count: int) -> None:
        """So many completions and comparisons are accepted and not yet answered."""

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """A request to `route` (its pattern, not its path) was answered with this HTTP status."""

    def record_judgment(self, judgment: Judgment, seconds: float) -> None:
        """A comparison has its judgment, so many seconds after it was asked for."""

    def record_retry(self) -> None:
        """A comparison goes to another replica, as its own died."""
