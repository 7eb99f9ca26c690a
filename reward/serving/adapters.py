"""Adapters of a service: a board with the versions that each replica must have, and the gateway's side of it.

The board is part of the deployment `KeptWork`. Replicas ask it what to load before they take work, and report what they
have loaded, see `flex_judge.reward.serving.replica_adapters`. If the board is lost, the replicas and the gateway tell
the next one which version is current.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from flex_judge.judges.errors import AdapterError
from flex_judge.reward.server.adapters import START, AdapterVersion
from flex_judge.reward.server.errors import RetryLaterError
from flex_judge.reward.serving.store_calls import CALL_S, LOAD_S, POLL_S, SILENT_S, BoardClient, News


@dataclass(frozen=True)
class AdapterPlan:
    """Versions that every replica must have loaded."""

    revision: str
    """Changes with every change of the plan."""
    current: AdapterVersion
    others: tuple[AdapterVersion, ...] = ()
    """A version that is being loaded, and earlier ones whose judgments are in progress."""


@dataclass(frozen=True)
class AdapterReport:
    """Result of loading a version at one replica."""

    fingerprint: str = ""
    problem: str = ""
    """Why it cannot be loaded; empty if it is loaded."""


class AdapterBoard:
    """Plan of the adapters of a service, and reports of its replicas."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a board whose plan is the adapter of the start.

        Args:
            clock: monotonic clock in seconds.
        """
        self._now = clock
        self._plan = AdapterPlan(uuid.uuid4().hex, START)
        self._reports: dict[int, dict[str, AdapterReport]] = {}
        self._followers: dict[str, float] = {}
        self._news = News()

    async def follow_adapters(self, replica: str, revision: str, current: AdapterVersion) -> AdapterPlan:
        """Return the plan as soon as it has another revision, at the latest after WATCH_S; a sign of life of a replica.

        Args:
            replica: id of the replica.
            revision: revision of the plan that the replica has.
            current: the version that the replica knows as current.
        """
        self._followers[replica] = self._now()
        self._adopt(current)
        if self._plan.revision == revision:
            await self._news.wait()
            self._followers[replica] = self._now()
        return self._plan

    async def report_adapter(self, replica: str, number: int, report: AdapterReport) -> None:
        """Record that a replica has loaded a version, or cannot."""
        self._reports.setdefault(number, {})[replica] = report
        self._publish()

    async def propose_adapter(self, name: str, path: str, current: AdapterVersion) -> AdapterVersion:
        """Add a version that the replicas shall load next to the current one."""
        self._adopt(current)
        # Numbers come from the clock, so that a board that lost its plan gives no number twice.
        number = max(1 + max(version.number for version in (self._plan.current, *self._plan.others)), time.time_ns())
        proposed = AdapterVersion(number=number, name=name, path=path)
        self._publish(replace(self._plan, others=(*self._plan.others, proposed)))
        return proposed

    async def collect_reports(self, number: int) -> tuple[dict[str, AdapterReport], list[str]]:
        """Wait for news and return the reports of the living replicas on a version, and the replicas without one."""
        if not self._followers or self._followers.keys() - self._reports.get(number, {}).keys():
            await self._news.wait()
        self._followers = {name: at for name, at in self._followers.items() if at + SILENT_S >= self._now()}
        reports = {name: r for name, r in self._reports.get(number, {}).items() if name in self._followers}
        return reports, sorted(self._followers.keys() - reports.keys())

    async def commit_adapter(self, version: AdapterVersion) -> None:
        """Make a version the current one; the earlier one stays loaded."""
        earlier = [other for other in (self._plan.current, *self._plan.others) if other.number != version.number]
        self._publish(replace(self._plan, current=version, others=tuple(earlier)))

    async def keep_adapters(self, numbers: Collection[int]) -> AdapterVersion:
        """Drop all other versions from the plan except the current one, which is returned."""
        remaining = [other for other in self._plan.others if other.number in numbers]
        self._publish(replace(self._plan, others=tuple(remaining)))
        return self._plan.current

    def _adopt(self, current: AdapterVersion) -> None:
        """Take over the current version of a replica or gateway that is older than this board."""
        if current.number > self._plan.current.number:
            self._publish(replace(self._plan, current=current))

    def _publish(self, plan: AdapterPlan | None = None) -> None:
        if plan is not None:
            self._plan = replace(plan, revision=uuid.uuid4().hex)
        self._news.announce()


class BoardLoader(BoardClient):
    """`AdapterLoader` of a gateway, which talks to the replicas through the board."""

    board = "adapters"
    unknown = "the adapters of the service"

    async def read_current(self) -> AdapterVersion:
        """Return the current version, see `AdapterLoader.read_current`."""
        current: AdapterVersion = await self._ask(self._store.keep_adapters, [])
        return current

    async def load(self, name: str, path: str, current: AdapterVersion) -> AdapterVersion:
        """Have every replica load an adapter, see `AdapterLoader.load`."""
        proposed: AdapterVersion = await self._ask(self._store.propose_adapter, name, path, current)
        try:
            fingerprint = await self._wait_for_replicas(proposed, current)
        except BaseException:
            with suppress(RetryLaterError):
                await asyncio.shield(self.keep_only([current.number]))
            raise
        return replace(proposed, fingerprint=fingerprint)

    async def commit(self, version: AdapterVersion) -> None:
        """Make a loaded version the current one, see `AdapterLoader.commit`."""
        await self._ask(self._store.commit_adapter, version)

    async def keep_only(self, numbers: Collection[int]) -> None:
        """Have the replicas free all other versions, see `AdapterLoader.keep_only`."""
        await self._ask(self._store.keep_adapters, list(numbers))

    async def _wait_for_replicas(self, proposed: AdapterVersion, current: AdapterVersion) -> str:
        """Wait until every replica has loaded a version, and return its fingerprint."""
        result = f"all replicas keep the adapter {current.key or 'of the start'}"
        deadline = time.monotonic() + LOAD_S
        while True:
            reports, missing = await self._ask(self._store.collect_reports, proposed.number)
            problems = {replica: r.problem for replica, r in reports.items() if r.problem}
            if problems:
                replica, problem = next(iter(problems.items()))
                raise AdapterError(
                    f"{len(problems)} of {len(reports) + len(missing)} replicas could not load the adapter, so {result}"
                    f"; replica {replica}: {problem}"
                )
            if not missing and reports and len(reports) >= await self._count_replicas():
                break
            await asyncio.sleep(POLL_S)
            if time.monotonic() > deadline:
                if not reports and not missing:
                    raise RetryLaterError("no replica is running; try again later", CALL_S)
                waiting = ", ".join(missing) or "some that do not answer"
                raise AdapterError(f"replicas have not loaded the adapter after {LOAD_S:g} s ({waiting}); {result}")
        fingerprints = _list_fingerprints(reports)
        if len(fingerprints) > 1:
            raise AdapterError(
                f"the replicas found different files in the folder ({', '.join(fingerprints)}), so {result}; use "
                "storage that all nodes share, and write the files before the request"
            )
        return fingerprints[0]


def _list_fingerprints(reports: Mapping[str, AdapterReport]) -> list[str]:
    return sorted({report.fingerprint for report in reports.values()})
