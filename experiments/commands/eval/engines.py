"""Engines of benchmark runs in this process: one for each run, or one that all benchmarks of a suite share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from flex_judge.experiments.common.progress import Progress
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig


class EngineSource(Protocol):
    """Source of the engine of a run."""

    def open_engine(self, config: EngineConfig, progress: Progress) -> AbstractContextManager[Engine]:
        """Open an engine for one run."""
        ...


class OwnEngine:
    """Engine that is loaded for a run and closed after it."""

    @contextmanager
    def open_engine(self, config: EngineConfig, progress: Progress) -> Iterator[Engine]:
        """Load an engine for the block."""
        engine = _load(config, progress)
        try:
            yield engine
        finally:
            engine.close()


class SharedEngine:
    """Engine that is loaded for the first run that needs it and serves all runs of a process, with one ledger.

    A run with another configuration of the engine replaces it. An engine in whose run an error occurred is closed,
    because it may be dead; the next run loads another.

    Args:
        ledger: File that records the generations.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._engine: Engine | None = None
        self._config: EngineConfig | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the engine is in memory."""
        return self._engine is not None

    @contextmanager
    def open_engine(self, config: EngineConfig, progress: Progress) -> Iterator[Engine]:
        """Give the engine to the block; it is loaded unless the last run used the same configuration."""
        config = replace(config, ledger=str(self._ledger))
        if config != self._config:
            self.close()
        if self._engine is None:
            self._engine, self._config = _load(config, progress), config
        try:
            yield self._engine
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the engine, if it is loaded."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def _load(config: EngineConfig, progress: Progress) -> Engine:
    with progress.show_phase("loading the judge", waiting_for=config.model):
        return load_engine(config)
