"""Progress of a run: phases with counts, rate and remaining time, on a terminal, in a log, or as JSON for programs."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from flex_judge.experiments.common.console import record_output
from flex_judge.experiments.common.reporting.wording import format_duration
from flex_judge.experiments.common.stopping import print_above

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINE_INTERVAL_S, JSON_INTERVAL_S = 15.0, 2.0
"""Seconds between two lines of a phase, without a terminal and with --json-progress."""
RATE_WINDOW_S = 300.0
"""Time over which the rate is measured. Judgments finish in bursts, so a short window would jump."""
ETA_SHARE, ETA_AFTER_S = 0.1, 60.0
"""Share of the items of this start, or time, after which a remaining time is shown."""
BAR_WIDTH, MIN_WIDTH_WITH_BAR = 24, 110
"""Columns of a bar, and of a terminal on which it fits beside the counts."""
JSON_FLAG = "--json-progress"
JSON_HELP = (
    "Print the progress as one JSON object per line on standard error: phase, done, failed, running, total, rate (per "
    "second), eta (seconds)"
)
_uses_json = False


def set_json_progress(enabled: bool) -> None:
    """Set whether this process prints its progress as JSON."""
    global _uses_json
    _uses_json = enabled


def uses_json_progress() -> bool:
    """Whether this process prints its progress as JSON."""
    return _uses_json


class Phase:
    """One phase of a run: a step without a total, such as starting Ray, or a number of work items."""

    def __init__(self, title: str, total: int | None = None, done: int = 0, waiting_for: str = "") -> None:
        """Create a phase. Items that an earlier start has finished are `done`; a step has no `total`."""
        self.title = title
        self.total = total
        self.done = done
        """Number of finished items, failed ones included."""
        self.failed = self.running = 0
        self.waiting_for = waiting_for
        """What a step waits for, or a note on the work, such as the loss."""
        self.is_finished = self.is_stopped = False
        self._started_at = time.monotonic()
        self._ended_at = 0.0
        self._history: deque[tuple[float, int]] = deque([(self._started_at, done)])

    def begin_item(self) -> None:
        """Count an item that is now under way."""
        self.running += 1

    def end_item(self, failed: bool = False) -> None:
        """Count an item that was under way as finished."""
        self.running -= 1
        self.advance(failed=failed)

    def advance(self, count: int = 1, failed: bool = False) -> None:
        """Count finished items."""
        self.set_counts(self.done + count, self.failed + count * failed)

    def set_counts(
        self, done: int, failed: int | None = None, running: int | None = None, total: int | None = None
    ) -> None:
        """Set the counts; None keeps a count."""
        self.done = done
        self.failed = self.failed if failed is None else failed
        self.running = self.running if running is None else running
        self.total = self.total if total is None else total
        now = time.monotonic()
        self._history.append((now, done))
        # Ten points a second at most: a window of judgments that finish at once would grow without limit.
        if len(self._history) > 2 and now - self._history[-3][0] < 0.1:
            del self._history[-2]
        while len(self._history) > 2 and now - self._history[1][0] > RATE_WINDOW_S:
            self._history.popleft()

    def restart(self, done: int, total: int) -> None:
        """Start to count items, after a time of loading that must not count towards the rate."""
        self._history = deque([(time.monotonic(), done)])
        self.set_counts(done, total=total)

    def report_replicas(self, running: int, wanted: int, reason: str) -> None:
        """Note how many replicas of a service are ready, and why the others wait."""
        counts = f"{running} of {wanted} replicas ready" if wanted else ""  # Ray Serve creates them after a moment
        self.waiting_for = "; ".join(filter(None, (counts, reason)))

    def end(self, finished: bool) -> None:
        """Stop the clock of the phase."""
        self.is_finished, self.is_stopped = finished, True
        self._ended_at = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the phase began."""
        return (self._ended_at if self.is_stopped else time.monotonic()) - self._started_at

    @property
    def rate(self) -> float | None:
        """Items per second over the last minutes; None if nothing has finished."""
        since, done = self._history[0]
        seconds = (self._ended_at if self.is_stopped else time.monotonic()) - since
        return (self.done - done) / seconds if self.done > done and seconds > 0 else None

    @property
    def eta_s(self) -> float | None:
        """Estimated seconds until the phase ends; None at the beginning, when few items say little about the others."""
        if self.total is None or not self.rate or self.is_stopped:
            return None
        since, first = self._history[0]
        if time.monotonic() - since < ETA_AFTER_S and self.done - first < ETA_SHARE * (self.total - first):
            return None
        return max(0, self.total - self.done) / self.rate

    def to_json(self) -> dict[str, Any]:
        """Return the state as `--json-progress` prints it."""
        rate, eta_s = self.rate, self.eta_s
        return {
            "phase": self.title,
            "state": "done" if self.is_finished else "stopped" if self.is_stopped else "running",
            "done": self.done,
            "failed": self.failed,
            "running": self.running,
            "total": self.total,
            "rate": None if rate is None else round(rate, 4),
            "eta": None if eta_s is None else round(eta_s, 1),
            "elapsed": round(self.elapsed_s, 1),
            "note": self.waiting_for or None,
        }

    def describe_counts(self, short: bool) -> list[str]:
        """List the counts in words, the most important ones first."""
        parts = []
        if self.total is not None:
            parts.append(f"{self.done}/{self.total}" if short else f"{self.done} of {self.total} done")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if not self.is_stopped and self.eta_s is not None and self.rate is not None:
            parts.append(f"{_format_seconds(self.eta_s)} left")
            parts.append(f"{60 * self.rate:.0f}/min" if self.rate > 1 / 60 else f"{3600 * self.rate:.1f}/h")
        if self.running and not self.is_stopped:
            parts.append(f"{self.running} {'running' if short else 'under way'}")
        return parts


class Progress:
    """Display of the phases of a run on standard error.

    Example:
        >>> with Progress(console) as progress, progress.show_phase("judging", total=100) as phase:
        ...     phase.advance()
    """

    def __init__(self, console: Console) -> None:
        """Create a display on a console."""
        self.console = console
        self._phases: list[Phase] = []
        self._lock = threading.Lock()
        self._is_json = uses_json_progress()
        self._is_live = console.is_terminal and not self._is_json
        self._interval_s = JSON_INTERVAL_S if self._is_json else LINE_INTERVAL_S
        self._display = ExitStack()
        self._closing = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._is_live:
            from rich.live import Live

            # What libraries print belongs to their log, not above the live lines.
            options: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}
            self._display.enter_context(print_above(self.console))
            self._display.enter_context(Live(console=self.console, get_renderable=self._render, **options))
        else:
            self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        for phase in self._phases:
            if not phase.is_stopped:
                self.end_phase(phase, finished=False)
        self._closing.set()
        if self._ticker is not None:
            self._ticker.join()
        self._display.close()

    def start_phase(self, title: str, total: int | None = None, done: int = 0, waiting_for: str = "") -> Phase:
        """Start a phase; phases may overlap. See `Phase` for the parameters."""
        record_output()
        phase = Phase(title, total, done, waiting_for)
        with self._lock:
            self._phases.append(phase)
        self._write(phase)
        return phase

    def end_phase(self, phase: Phase, finished: bool = True) -> None:
        """End a phase, as finished or as interrupted."""
        phase.end(finished)
        if finished or self._is_json:
            self._write(phase)

    @contextmanager
    def show_phase(self, title: str, total: int | None = None, done: int = 0, waiting_for: str = "") -> Iterator[Phase]:
        """Show a phase until the block ends; after an error it counts as interrupted."""
        phase, finished = self.start_phase(title, total, done, waiting_for), False
        try:
            yield phase
            finished = True
        finally:
            self.end_phase(phase, finished)

    def _tick(self) -> None:
        while not self._closing.wait(self._interval_s):
            with self._lock:
                running = [phase for phase in self._phases if not phase.is_stopped]
            for phase in running:
                self._write(phase)

    def _write(self, phase: Phase) -> None:
        """Write the state of a phase as a line, unless a terminal shows it already."""
        if self._is_live:
            return
        text = json.dumps(phase.to_json()) if self._is_json else f"flex-judge: {_describe_phase(phase)}"
        with self._lock:
            self.console.out(text, highlight=False)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            lines = [_render_line(phase, self.console.width) for phase in self._phases]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def _describe_phase(phase: Phase) -> str:
    """Describe a phase in a line of a log."""
    parts = phase.describe_counts(short=False)
    if phase.is_finished:
        return f"{phase.title}: {', '.join([*parts, f'took {_format_seconds(phase.elapsed_s)}'])}"
    if phase.elapsed_s >= 1:
        parts.append(f"{_format_seconds(phase.elapsed_s)} so far")
    if phase.waiting_for:
        parts.append(phase.waiting_for)
    return f"{phase.title}: {', '.join(parts)}" if parts else phase.title


def _render_line(phase: Phase, width: int) -> str:
    """Render a phase as one line of at most `width` columns; the less important counts are left out if it is short."""
    frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    mark = "✓" if phase.is_finished else "✗" if phase.is_stopped else frames[int(8 * time.monotonic()) % len(frames)]
    line = f"{mark} {phase.title}"
    if phase.total and width >= MIN_WIDTH_WITH_BAR:
        filled = round(BAR_WIDTH * min(1.0, phase.done / phase.total))
        line = f"{line:<26} {'━' * filled}{'─' * (BAR_WIDTH - filled)}"
    counts, waiting_for = phase.describe_counts(short=True), phase.waiting_for * (not phase.is_finished)
    for part in [*counts[:1], _format_seconds(phase.elapsed_s), *counts[1:], waiting_for]:
        if part and len(line) + 3 + len(part) <= width:
            line += f" · {part}"
        elif part and part == phase.waiting_for and width - len(line) > 24:
            line += f" · {part[: width - len(line) - 4]}…"
    return line


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 59.5 else format_duration(seconds)


@contextmanager
def show_phase(
    progress: Progress | None, title: str, total: int | None = None, waiting_for: str = ""
) -> Iterator[Phase]:
    """Show a phase on a display, if there is one, see `Progress.show_phase`."""
    if progress is None:
        yield Phase(title, total, waiting_for=waiting_for)
        return
    with progress.show_phase(title, total, waiting_for=waiting_for) as phase:
        yield phase


def show_ray_start(progress: Progress, address: str | None, timeout_s: float) -> AbstractContextManager[Phase]:
    """Show the start of a local Ray, or the joining of a running one."""
    waiting_for = address or f"waiting for its processes, at most {timeout_s:g} s"
    return progress.show_phase("joining Ray" if address else "starting Ray", waiting_for=waiting_for)
