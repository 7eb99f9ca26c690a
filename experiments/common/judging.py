"""Judges of a run: one in this process, or a service that is already running."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.types import Comparison

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge


class RunJudge(Protocol):
    """Judge of a run."""

    async def ask(self, comparison: Comparison) -> Judgment:
        """Judge a comparison."""
        ...

    def compute_key(self, comparison: Comparison) -> str:
        """Hash everything that determines a judgment; stored judgments hold this key."""
        ...

    def count_ledger_requests(self) -> tuple[int | None, int]:
        """Count the requests that the ledger answered (None without a ledger), and the others."""
        ...

    def close(self) -> None:
        """Free what the judge holds."""
        ...


class LocalJudge:
    """Judge in this process.

    Args:
        judge: The judge.
    """

    def __init__(self, judge: FlexJudge) -> None:
        self._judge = judge

    async def ask(self, comparison: Comparison) -> Judgment:
        """Judge a comparison."""
        return await self._judge.ajudge(comparison)

    def compute_key(self, comparison: Comparison) -> str:
        """Hash everything that determines a judgment."""
        return self._judge.compute_key(comparison)

    def count_ledger_requests(self) -> tuple[int | None, int]:
        """Count the requests that the ledger answered (None without a ledger), and the others."""
        return getattr(self._judge.engine, "hits", None), getattr(self._judge.engine, "misses", 0)

    def close(self) -> None:
        """Close the engine."""
        self._judge.close()


class ServiceJudge:
    """Judge service that this run uses instead of a judge of its own.

    Args:
        service: The service.
    """

    def __init__(self, service: RemoteJudge) -> None:
        self._service, self._ask = service, service.make_ask()

    async def ask(self, comparison: Comparison) -> Judgment:
        """Have a comparison judged; the judgment gets the key of this run."""
        judgment = await self._ask(comparison)
        return replace(judgment, provenance={**judgment.provenance, "key": self.compute_key(comparison)})

    def compute_key(self, comparison: Comparison) -> str:
        """Hash comparison, rubric and address of the service; its model and settings are its own."""
        determinants = [comparison.digest, get_rubric(comparison.rubric), self._service.url]
        return hashlib.sha256(repr(determinants).encode()).hexdigest()[:32]

    def count_ledger_requests(self) -> tuple[int | None, int]:
        """Return that this run has no ledger."""
        return None, 0

    def close(self) -> None:
        """Close the connections."""
        self._service.client.close()
