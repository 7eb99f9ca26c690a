"""Live counts of a run: samples, judgments and rows, written by each worker into a small file of the run's folder.

The folder is shared by all workers, so the driver can add up the files whatever runs the workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import JudgeError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_object, write_text
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison, Message
from flex_judge.reward.groups.methods import JudgeFunction

if TYPE_CHECKING:
    from flex_judge.alignment.pipeline.models import Models

WRITE_INTERVAL_S = 1.0
"""Minimum time between two writes of a worker's file."""


@dataclass
class Counts:
    """Counts of one worker, or sums over all of them."""

    sampled: int = 0
    sampling: int = 0
    """Samples under way."""
    judged: int = 0
    """Judgments, those without a score included."""
    judging: int = 0
    """Judgments under way."""
    unscored: int = 0
    rows: int = 0
    """Finished rows, failed ones included."""
    row_samples: int = 0
    row_judgments: int = 0
    """Samples and judgments of the finished rows, which may need fewer than planned."""
    failed_rows: int = 0
    active_rows: int = 0
    """Rows under way."""

    def __add__(self, other: Counts) -> Counts:
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})


@dataclass
class _RowCounts:
    samples: int = 0
    judgments: int = 0


_current_row: ContextVar[_RowCounts | None] = ContextVar("current_row", default=None)


@dataclass
class Tally:
    """Counts of this process for one run, and the file that they are written to. Belongs to one event loop."""

    file: Path
    counts: Counts = field(default_factory=Counts)
    _written_at: float = 0.0
    _is_scheduled: bool = False
    is_closed: bool = False
    """Whether the run has ended, after which a write would leave a file behind."""

    @contextmanager
    def count_row(self) -> Iterator[None]:
        """Count a row, and the samples and judgments of the block as its own. An error counts it as failed."""
        row = _RowCounts()
        token = _current_row.set(row)
        self.counts.active_rows += 1
        try:
            yield
        except BaseException:
            self.counts.failed_rows += 1
            raise
        finally:
            _current_row.reset(token)
            self.counts.active_rows -= 1
            self.counts.rows += 1
            self.counts.row_samples += row.samples
            self.counts.row_judgments += row.judgments
            self.schedule_write()

    def schedule_write(self) -> None:
        """Write the counts soon, at most once per `WRITE_INTERVAL_S`."""
        if not self._is_scheduled:
            self._is_scheduled = True
            delay_s = max(0.0, self._written_at + WRITE_INTERVAL_S - time.monotonic())
            asyncio.get_running_loop().call_later(delay_s, self.write)

    def write(self) -> None:
        """Write the counts now."""
        self._is_scheduled = False
        self._written_at = time.monotonic()
        if self.is_closed:
            return
        # After an error the display is out of date; a full disk is reported by whoever writes results.
        with suppress(OSError, JudgeError):
            write_text(self.file, dump_json(asdict(self.counts)) + "\n")


_tallies: dict[Path, Tally] = {}


def open_tally(folder: Path) -> Tally:
    """Return the tally of this process for the run with this folder of shards."""
    folder = folder.absolute()
    if folder not in _tallies:
        folder.mkdir(parents=True, exist_ok=True)
        _tallies[folder] = Tally(folder / f"counts-{uuid4().hex[:12]}.json")
    return _tallies[folder]


def read_counts(folder: Path) -> Counts:
    """Add up the counts of all workers."""
    total = Counts()
    for file in folder.glob("counts-*.json"):
        try:
            total += Counts(**read_object(file))
        except (OSError, JudgeError, TypeError):
            continue  # of another version, or removed in the meantime
    return total


def remove_counts(folder: Path) -> None:
    """Remove the counts of earlier starts, before the workers start and when they have ended."""
    if (tally := _tallies.pop(folder.absolute(), None)) is not None:
        tally.is_closed = True
    for file in folder.glob("counts-*.json"):
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class CountedModels:
    """Models whose samples and judgments are counted, see `Models`."""

    models: Models
    folder: Path
    """Folder of the run's shards."""

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """See `Models.open`."""
        policy, ask_judge = await self.models.open()
        tally = open_tally(self.folder)

        async def ask_counted(comparison: Comparison) -> Judgment:
            tally.counts.judging += 1
            tally.schedule_write()
            try:
                judgment = await ask_judge(comparison)
            finally:
                tally.counts.judging -= 1
                tally.schedule_write()
            tally.counts.judged += 1
            tally.counts.unscored += judgment.scores is None
            if (row := _current_row.get()) is not None:
                row.judgments += 1
            return judgment

        return _CountedPolicy(policy, tally), ask_counted


class _CountedPolicy:
    def __init__(self, policy: Policy, tally: Tally) -> None:
        self.model_id = policy.model_id
        self._policy, self._tally = policy, tally

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        counts = self._tally.counts
        counts.sampling += len(sample_indices)
        self._tally.schedule_write()
        try:
            completions = await self._policy.sample(prompt, sampling, sample_indices)
        finally:
            counts.sampling -= len(sample_indices)
            self._tally.schedule_write()
        counts.sampled += len(completions)
        if (row := _current_row.get()) is not None:
            row.samples += len(completions)
        return completions

    async def check_health(self) -> None:
        await self._policy.check_health()

    def close(self) -> None:
        self._policy.close()
