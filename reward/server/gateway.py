"""The service behind its HTTP routes: what is taken on, for how long, and what becomes of it.

Free of any web framework and of Ray; `flex_judge.reward.server.routes` puts it on the web.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from flex_judge.judges.errors import EngineLostError, RenderError, UsageError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.collector import GroupCollector
from flex_judge.reward.groups.methods import Ask, check_samples
from flex_judge.reward.server.backpressure import Backpressure, BodyBudget
from flex_judge.reward.server.config import MIB, GatewayConfig
from flex_judge.reward.server.decoding import RubricRegistry
from flex_judge.reward.server.errors import FieldError, RejectedError, RetryLaterError
from flex_judge.reward.server.idempotency import IdempotencyCache
from flex_judge.reward.server.media_decoding import MediaDecoder
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.types import Reward, RewardSpec, Sample

__all__ = ["Gateway", "GatewayConfig"]

T = TypeVar("T")
Health = Callable[[], Awaitable[Mapping[str, Any]]]
CACHED_ANSWERS_MIB = 256
"""Answers to requests with keys that are kept, all together."""
ANSWER_MARGIN, MAX_ANSWER_MARGIN_S = 0.1, 2.0
"""The end of a request's deadline, as a share of it and at most so long, in which what its comparisons came to is put
together; they themselves have the time before it."""
DRAINING_RETRY_AFTER_S = 10.0
"""When to come back to a service that drains: another one may have taken its place."""


class Gateway:
    """Takes requests on, has them judged, and answers in time. For one event loop."""

    def __init__(
        self,
        ask: Ask,
        config: GatewayConfig | None = None,
        metrics: ServiceMetrics | None = None,
        health: Health | None = None,
    ) -> None:
        """Args:
            ask: has one comparison judged.
            config: limits and the like.
            metrics: told of requests, and of how much is pending.
            health: what there is to tell of what is behind `ask`; `{"replicas": 0}` says that it is still starting.

        Raises:
            UsageError: a rubric's file is wrong or not there.
        """
        self.config = config = config or GatewayConfig()
        self.metrics = metrics or ServiceMetrics()
        self.draining = False
        self.rubrics = RubricRegistry(config.rubrics)
        self.store = MediaStore(config.media_store_mib * MIB)
        self.bodies = BodyBudget(config.max_bodies_mib * MIB)
        urls = UrlFetcher(config.media_hosts, config.max_body_mib * MIB)
        self.media_decoder = MediaDecoder(self.store, urls, config.max_media)
        self._ask = ask
        self._health = health
        self._backpressure = Backpressure(config.max_pending, self.metrics.set_pending)
        self._collector = GroupCollector(self._judge_comparison, config.retain_s)
        self._idempotency = IdempotencyCache(config.retain_s, CACHED_ANSWERS_MIB * MIB)
        self._ending: set[asyncio.Future[Any]] = set()
        self._in_hand = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def pending(self) -> int:
        """Completions and comparisons that are accepted and not yet answered."""
        return self._backpressure.pending

    async def judge_comparisons(
        self, comparisons: Sequence[Comparison], deadline_s: float | None = None
    ) -> list[Judgment]:
        """Judgments in the same order. Failures become a status, never a score.

        Args:
            deadline_s: seconds until the answer; what is not ready by then has status timeout.

        Raises:
            FieldError: a rubric does not exist or is not made for so many responses; nothing was judged.
            NotNowError: there is no room for all of them, or the service drains; nothing was judged.
            RejectedError: one cannot be judged as it is; it holds the judgments of the others.
        """
        rubrics = [
            self.rubrics.find_rubric(c.rubric, len(c.responses), f"comparisons[{i}].rubric")
            for i, c in enumerate(comparisons)
        ]
        self.check_capacity(len(comparisons))
        left_s = self._limit_deadline(deadline_s)
        renamed = [replace(c, rubric=rubric.name) for c, rubric in zip(comparisons, rubrics, strict=True)]
        tasks = [asyncio.ensure_future(self._judge_comparison(c)) for c in renamed]
        found = await self._collect_results(tasks, "comparisons", left_s)
        # A file of the operator's was found by its name alone: where it lies is nobody's business.
        return [
            Judgment.from_failure(c.id, Status.TIMEOUT, _describe_timeout(left_s))
            if judgment is None
            else replace(judgment, provenance={**judgment.provenance, "rubric": c.rubric})
            for c, judgment in zip(comparisons, found, strict=True)
        ]

    async def compute_rewards(
        self, asked: Sequence[tuple[Sample, RewardSpec]], deadline_s: float | None = None
    ) -> list[Reward]:
        """Rewards in the same order, of samples each judged in its own way. Raises what `judge` raises."""
        by_spec: dict[RewardSpec, list[int]] = {}
        for i, (_, spec) in enumerate(asked):
            by_spec.setdefault(self._resolve_spec(spec), []).append(i)
        for spec, places in by_spec.items():
            _check_spec_samples([asked[i][0] for i in places], places, spec)
        self.check_capacity(len(asked))
        left_s = self._limit_deadline(deadline_s)
        judging_s = left_s - min(ANSWER_MARGIN * left_s, MAX_ANSWER_MARGIN_S)
        futures: dict[int, asyncio.Future[Reward]] = {}
        for spec, places in by_spec.items():
            added = self._collector.add([asked[i][0] for i in places], spec, judging_s)
            futures.update(zip(places, added, strict=True))
        found = await self._collect_results([futures[i] for i in range(len(asked))], "samples", left_s)
        return [
            Reward(None, Status.TIMEOUT, detail=_describe_timeout(left_s)) if reward is None else reward
            for reward in found
        ]

    async def run_once(self, key: str, fingerprint: str, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The answer to a request with an Idempotency-Key: the one that there is, or what `work` makes.

        Raises:
            FieldError: the key was used for something else.
        """

        async def working() -> bytes:
            with self.track_work():  # also when nobody waits for it any more
                return await work()

        return await self._idempotency.run_once(key, fingerprint, working)

    def check_accepting(self, key: str | None) -> None:
        """Raise NotNowError where a request would be refused anyway, before its body is read."""
        if key is None or not self._idempotency.has_key(key):
            self.check_capacity(1)

    def check_capacity(self, count: int) -> None:
        """Raise NotNowError if so many more are not taken."""
        if self.draining:
            raise RetryLaterError("the service is shutting down and takes nothing new", DRAINING_RETRY_AFTER_S)
        self._backpressure.check_capacity(count)

    @contextmanager
    def track_work(self) -> Iterator[None]:
        """While something is in hand that `drain` waits for."""
        self._in_hand += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self._idle.set()

    async def get_health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it takes requests, and what to tell of it."""
        more = dict(await self._health()) if self._health is not None else {}
        status = "draining" if self.draining else "starting" if more.get("replicas") == 0 else "ok"
        return status == "ok", {"status": status, "pending": self.pending, **more}

    async def drain(self) -> None:
        """Refuse new work from now on, and return when all that was accepted is answered."""
        self.draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """Give up everything."""
        self.draining = True
        await self._idempotency.close()
        await self._collector.close()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _judge_comparison(self, comparison: Comparison) -> Judgment:
        try:
            return await self._ask(comparison)
        except EngineLostError as e:  # a judge in this process; services give it a status themselves
            return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, str(e))

    def _limit_deadline(self, asked_s: float | None) -> float:
        return self.config.deadline_s if asked_s is None else max(0.0, min(asked_s, self.config.deadline_s))

    def _resolve_spec(self, spec: RewardSpec) -> RewardSpec:
        """The spec with the rubric as a judge finds it."""
        if spec.needs_group and spec.group_size is not None and spec.group_timeout_s > self.config.deadline_s:
            problem = (
                f"{spec.group_timeout_s:g} s are more than the {self.config.deadline_s:g} s that a request may take"
            )
            raise FieldError.at_field("group_timeout_s", problem)
        needed = {"pointwise": 1, "listwise": spec.group_size}.get(spec.method, 2)
        return replace(spec, rubric=self.rubrics.find_rubric(spec.rubric, needed).name)

    async def _collect_results(self, work: Sequence[asyncio.Future[T]], name: str, left_s: float) -> list[T | None]:
        """What is ready when the time is up; None for the rest, which is given up."""
        with self.track_work():
            self._backpressure.admit(len(work))
            for one in work:
                one.add_done_callback(lambda _: self._backpressure.release())
            try:
                if work:
                    await asyncio.wait(work, timeout=left_s)
            finally:
                for one in work:
                    if not one.done():
                        self._cancel_work(one)
        ready = [one.done() and not one.cancelled() for one in work]
        errors = [one.exception() if done else None for one, done in zip(work, ready, strict=True)]
        refused = {i: error for i, error in enumerate(errors) if isinstance(error, UsageError | RenderError)}
        for i, error in enumerate(errors):
            if error is not None and i not in refused:
                raise error
        found = [
            one.result() if done and error is None else None
            for one, done, error in zip(work, ready, errors, strict=True)
        ]
        if refused:
            first = min(refused)
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise RejectedError(f"{name}[{first}]: {refused[first]}{more}", f"{name}[{first}]", found)
        return found

    def _cancel_work(self, work: asyncio.Future[Any]) -> None:
        """Cancel without waiting: how long something takes to end is not the caller's time."""
        work.cancel()
        self._ending.add(work)
        work.add_done_callback(self._discard_work)

    def _discard_work(self, work: asyncio.Future[Any]) -> None:
        self._ending.discard(work)
        if not work.cancelled():
            work.exception()  # seen; the caller has been told that it took too long


def _check_spec_samples(samples: Sequence[Sample], places: Sequence[int], spec: RewardSpec) -> None:
    """Raise FieldError if samples that are judged in the same way cannot be."""
    for sample, place in zip(samples, places, strict=True):
        if spec.method == "baseline" and sample.baseline is None:
            raise FieldError.at_field(
                f"samples[{place}].baseline", "is missing, and the method 'baseline' compares with it"
            )
    check_samples(samples, spec)


def _describe_timeout(left_s: float) -> str:
    return f"not ready within the request's deadline of {left_s:g} s"
