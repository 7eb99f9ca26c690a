"""Gateway behind the HTTP routes: admission, deadlines, group collection, and results.

Free of any web framework and of Ray; `flex_judge.reward.server.routes` adds HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import flex_judge
from flex_judge.judges.errors import EngineLostError, JudgeError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.rubrics import shorten_inline_name
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.collector import GroupCollector
from flex_judge.reward.groups.methods import JudgeFunction
from flex_judge.reward.server.adapters import AdapterSwitch
from flex_judge.reward.server.backpressure import ActiveWork, Backpressure, BodyBudget, CancelledWork
from flex_judge.reward.server.config import MIB, GatewayConfig
from flex_judge.reward.server.decoding import RubricRegistry
from flex_judge.reward.server.errors import FieldError, RetryLaterError
from flex_judge.reward.server.idempotency import AnswerArchive, IdempotencyCache
from flex_judge.reward.server.media_decoding import MediaDecoder
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.server.row_failures import RowFailure, check_baseline, locate_judgment, locate_reward, try_row
from flex_judge.reward.server.sleep import SleepSwitch
from flex_judge.reward.types import Reward, RewardSpec, Sample

__all__ = ["Gateway", "GatewayConfig"]

T = TypeVar("T")
HealthFunction = Callable[[], Awaitable[Mapping[str, Any]]]
ANSWER_MARGIN, MAX_ANSWER_MARGIN_S = 0.1, 2.0
"""Share of a request's time limit (and its maximum in seconds) that building the response may take after judging."""
DRAINING_RETRY_AFTER_S = 10.0
"""Retry-After while the service shuts down; another one may have replaced it by then."""


class Gateway:
    """Gateway that accepts requests, has them judged, and returns results in time. Belongs to one event loop."""

    def __init__(
        self,
        judge: JudgeFunction,
        config: GatewayConfig | None = None,
        metrics: ServiceMetrics | None = None,
        health: HealthFunction | None = None,
        archive: AnswerArchive | None = None,
        adapters: AdapterSwitch | None = None,
        sleep: SleepSwitch | None = None,
    ) -> None:
        """Create a gateway.

        Args:
            judge: judges one comparison.
            config: limits and rubrics.
            metrics: receives the metrics.
            health: returns fields for the health report; `{"replicas": 0}` means that the service is starting.
            archive: keeps the answers to requests with an idempotency key beyond the life of this gateway.
            adapters: current adapter of the judge; None if it never changes.
            sleep: sleep of the judge; None if it never sleeps.

        Raises:
            UsageError: a rubric file is missing or invalid.
        """
        self.config = config = config or GatewayConfig()
        self.metrics = metrics or ServiceMetrics()
        self.adapters = adapters or AdapterSwitch()
        self.draining = False
        self.rubrics = RubricRegistry(config.rubrics, config.allow_inline_rubrics)
        self.store = MediaStore(config.media_store_mib * MIB)
        self.bodies = BodyBudget(config.max_bodies_mib * MIB)
        urls = UrlFetcher(config.media_hosts, config.max_body_mib * MIB)
        self.media_decoder = MediaDecoder(self.store, urls, config.max_media)
        self._judge = judge
        self._health = health
        self._backpressure = Backpressure(config.max_pending, self.metrics.set_pending)
        self._collector = GroupCollector(self._judge_comparison, config.retain_s, self.metrics)
        self._idempotency = IdempotencyCache(config.retain_s, grace_s=config.disconnect_grace_s, archive=archive)
        self._cancelled_work = CancelledWork()
        self._active_work = ActiveWork()
        self.sleep = sleep or SleepSwitch()
        self.sleep.connect(self._active_work.wait_until_idle, self.adapters.pause_updates)
        self.adapters.check_ready = self.sleep.check_awake

    @property
    def pending(self) -> int:
        """Number of accepted completions and comparisons without a result."""
        return self._backpressure.pending

    async def judge_comparisons(
        self, items: Sequence[Comparison | RowFailure], deadline_s: float | None = None
    ) -> list[Judgment]:
        """Judge comparisons. Failures become a status, never a score.

        Args:
            items: the comparisons of one request, and the rows of it that cannot be judged.
            deadline_s: time limit in seconds; comparisons that are not ready by then get the status timeout.

        Returns:
            The judgments in order.

        Raises:
            RetryLaterError: the service is overloaded or shutting down; nothing was judged.
        """
        self.check_capacity(len(items))
        limit_s = self._limit_deadline(deadline_s)
        rows = [self._resolve_rubric(item, f"comparisons[{i}]") for i, item in enumerate(items)]
        valid = {i: row for i, row in enumerate(rows) if isinstance(row, Comparison)}
        work = {i: asyncio.ensure_future(self._judge_comparison(row)) for i, row in valid.items()}
        results = await self._collect_results(work, limit_s)
        timeout, judgments = RowFailure.from_timeout(limit_s), []
        for i, (item, row) in enumerate(zip(items, rows, strict=True)):
            if isinstance(row, RowFailure):
                self.metrics.record_invalid_row(row.status)
            result = row if isinstance(row, RowFailure) else results[i] or timeout
            if isinstance(result, Judgment):
                # The client's name replaces the judge's, which for a rubric file contains the operator's path.
                rubric = shorten_inline_name(item.rubric) if isinstance(item, Comparison) else ""
                judgment = replace(result, provenance={**result.provenance, "rubric": rubric})
            else:
                judgment = replace(result, id=item.id).make_judgment()
            judgments.append(locate_judgment(judgment, f"comparisons[{i}]"))
        return judgments

    async def compute_rewards(
        self,
        items: Sequence[tuple[Sample | RowFailure, RewardSpec]],
        deadline_s: float | None = None,
        field: str = "samples",
    ) -> list[Reward]:
        """Compute rewards of samples, each with its own settings.

        Args:
            items: samples, or the rows that cannot be judged, and their settings.
            deadline_s: time limit in seconds; samples that are not ready by then get the status timeout.
            field: field of the request that holds the rows.

        Returns:
            The rewards in the order of the items.

        Raises:
            FieldError: a rubric or setting is invalid; nothing was judged.
            RetryLaterError: the service is overloaded or shutting down; nothing was judged.
        """
        resolved = {spec: try_row(partial(self.resolve_spec, spec), field, (JudgeError,)) for _, spec in items}
        by_spec: dict[RewardSpec, dict[int, Sample]] = {}
        failures: dict[int, RowFailure] = {}
        for i, (item, given_spec) in enumerate(items):
            spec = resolved[given_spec]
            if isinstance(item, RowFailure):
                failures[i] = item
            elif isinstance(spec, RowFailure):
                failures[i] = spec
            else:
                by_spec.setdefault(spec, {})[i] = check_baseline(item, spec, f"{field}[{i}]")
        self.check_capacity(len(items))
        limit_s = self._limit_deadline(deadline_s)
        judging_s = limit_s - min(ANSWER_MARGIN * limit_s, MAX_ANSWER_MARGIN_S)
        futures: dict[int, asyncio.Future[Reward]] = {}
        for spec, samples in by_spec.items():
            add_samples = partial(self._collector.add, list(samples.values()), spec, judging_s)
            added = try_row(add_samples, field, (JudgeError,))
            if isinstance(added, RowFailure):
                failures.update(dict.fromkeys(samples, added))
            else:
                futures.update(zip(samples, added, strict=True))
        collected = await self._collect_results(futures, limit_s)
        results: dict[int, Reward | RowFailure | None] = {**collected, **failures}
        timeout, rewards = RowFailure.from_timeout(limit_s), []
        for i in range(len(items)):
            result = results[i] or timeout
            reward = result.make_reward() if isinstance(result, RowFailure) else result
            if reward.status == Status.INVALID_INPUT and not reward.judgments:
                self.metrics.record_invalid_row(reward.status)
            rewards.append(locate_reward(reward, f"{field}[{i}]"))
        return rewards

    async def run_once(self, key: str, fingerprint: str, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Return the answer to a request with an Idempotency-Key; run `work` if there is no answer yet.

        Args:
            key: the idempotency key.
            fingerprint: hash of the request's content.
            work: computes the answer.

        Raises:
            FieldError: the key was used for a request with another fingerprint.
        """

        async def run_and_track() -> bytes:
            # It continues for the grace time after its client disconnects, and `drain` must wait for it.
            with self.track_work():
                return await work()

        return await self._idempotency.run_once(key, fingerprint, run_and_track)

    def check_accepting(self, key: str | None) -> None:
        """Raise RetryLaterError if a request would be refused anyway, before its body is read."""
        if key is None or not self._idempotency.has_key(key):
            self.check_capacity(1)

    def check_capacity(self, count: int) -> None:
        """Raise RetryLaterError unless all of `count` items can be accepted."""
        if self.draining:
            raise RetryLaterError("the service is shutting down and takes no new requests", DRAINING_RETRY_AFTER_S)
        self.sleep.check_awake()
        self._backpressure.check_capacity(count)

    def track_work(self) -> AbstractContextManager[None]:
        """Track work that `drain` and sleep must wait for, until the block ends."""
        return self._active_work.track()

    async def get_health(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the service accepts requests or sleeps, and its health report."""
        details = dict(await self._health()) if self._health is not None else {}
        level = await self.sleep.read_level()
        status = "draining" if self.draining else "starting" if details.get("replicas") == 0 else "ok"
        if level and not self.draining:
            status, details = "asleep", {**details, "sleep_level": level}
        phase = "starting_replicas" if details.get("replicas", 0) < details.get("replicas_wanted", 0) else "ready"
        phase = phase if status == "ok" else status
        report = {"status": status, "phase": phase, "version": flex_judge.__version__, "pending": self.pending}
        inline = {"inline_rubrics": True} if self.config.allow_inline_rubrics else {}
        return status in ("ok", "asleep"), {**report, **inline, **details}

    async def drain(self) -> None:
        """Refuse new requests, and wait until all accepted ones are answered."""
        self.draining = True
        await self._active_work.wait_until_idle()

    async def close(self) -> None:
        """Cancel all work and wait for it to end."""
        self.draining = True
        await self._idempotency.close()
        await self._collector.close()
        await self._cancelled_work.wait()

    async def _judge_comparison(self, comparison: Comparison) -> Judgment:
        try:
            return await self._judge(comparison)
        except EngineLostError as e:  # only from a judge in this process; the dispatcher of a service returns a status
            return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, str(e))
        except Exception as e:  # noqa: BLE001 - costs its comparison only, such as a rubric file that the replica lacks
            return replace(RowFailure.from_any_error(e), id=comparison.id).make_judgment()

    def _limit_deadline(self, deadline_s: float | None) -> float:
        return self.config.deadline_s if deadline_s is None else max(0.0, min(deadline_s, self.config.deadline_s))

    def _resolve_rubric(self, item: Comparison | RowFailure, field: str) -> Comparison | RowFailure:
        """Replace the rubric of a comparison by the name that judges look up; a wrong one is a failure of the row."""
        if isinstance(item, Comparison):
            rubric = try_row(partial(self.rubrics.find_rubric, item.rubric, len(item.responses), f"{field}.rubric"))
            return rubric if isinstance(rubric, RowFailure) else replace(item, rubric=rubric.name)
        return item

    def resolve_spec(self, spec: RewardSpec, field: str = "rubric") -> RewardSpec:
        """Check a spec and replace its rubric by the name that judges look up.

        Args:
            spec: the settings.
            field: field of the rubric in the request, for error messages.

        Raises:
            FieldError: the rubric or a setting is invalid.
        """
        if spec.needs_group and spec.group_size is not None and spec.group_timeout_s > self.config.deadline_s:
            limit = f"the service's time limit of {self.config.deadline_s:g} s"
            raise FieldError.at_field("group_timeout_s", f"{spec.group_timeout_s:g} s must be at most {limit}")
        num_responses = {"pointwise": 1, "listwise": spec.group_size}.get(spec.method, 2)
        return replace(spec, rubric=self.rubrics.find_rubric(spec.rubric, num_responses, field).name)

    async def _collect_results(
        self, work: Mapping[int, asyncio.Future[T]], limit_s: float
    ) -> dict[int, T | RowFailure | None]:
        """Wait for results until the time limit; unfinished work is cancelled and gives None."""
        with self.track_work():
            self._backpressure.admit(len(work))
            for future in work.values():
                future.add_done_callback(lambda _: self._backpressure.release())
            try:
                if work:
                    await asyncio.wait(work.values(), timeout=limit_s)
            finally:
                for future in work.values():
                    if not future.done():
                        self._cancelled_work.cancel(future)
        # All errors are retrieved before one is raised, as asyncio logs those that never are.
        errors = {i: f.exception() for i, f in work.items() if f.done() and not f.cancelled()}
        results: dict[int, T | RowFailure | None] = dict.fromkeys(work)
        for i, error in errors.items():
            results[i] = RowFailure.from_any_error(error) if isinstance(error, Exception) else work[i].result()
        return results
