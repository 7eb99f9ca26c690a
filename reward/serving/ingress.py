"""Gateway as a Ray Serve deployment: HTTP requests in, comparisons to the replicas, metrics and log out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from flex_judge.judges.engines.base import REMOTE, EngineConfig
from flex_judge.judges.engines.remote.address import ServedModel
from flex_judge.judges.errors import JudgeError, to_one_line
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.adapters import AdapterSwitch, AdapterVersion
from flex_judge.reward.server.errors import RetryLaterError
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.logs import with_fields
from flex_judge.reward.server.request_log import get_request_id
from flex_judge.reward.server.sleep import SleepSwitch
from flex_judge.reward.serving.adapters import BoardLoader
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.deployment import count_replicas
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError
from flex_judge.reward.serving.kept_work import KeptWork, WorkArchive, find_recent_judgment
from flex_judge.reward.serving.logs import configure_actor_logging
from flex_judge.reward.serving.sleep import BoardSleepControl
from flex_judge.reward.serving.work_recorder import compute_work_scope

HEALTH_CACHE_S = 1.0
log = logging.getLogger(__name__)


class ReplicaSender:
    """`SendFunction` that calls replicas through a Ray Serve handle."""

    def __init__(self, handle: Any, choose_adapter: Callable[[], AdapterVersion | None] = lambda: None) -> None:
        """Create a sender.

        Args:
            handle: handle of the replicas.
            choose_adapter: returns the adapter for a comparison; None leaves it to the replica.
        """
        self._judge_one = handle.judge_one
        self._choose_adapter = choose_adapter

    async def __call__(self, comparison: Comparison) -> Judgment:
        """Send a comparison to a replica.

        Raises:
            ReplicaDiedError: the replica died.
            JudgeError: the comparison cannot be judged.
        """
        from ray.exceptions import RayActorError, RayTaskError

        # In a new context: otherwise all calls within one HTTP request would share its request id, and a router that
        # looks up calls by their id would answer only one of them.
        fields = {"prefix": comparison.prompt_digest, "request_id": get_request_id(), "adapter": self._choose_adapter()}
        response = Context().run(partial(self._judge_one.remote, comparison, **fields))
        try:
            judgment: Judgment = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError as e:
            raise ReplicaDiedError(e.actor_id or "", to_one_line(e)) from e
        except RayTaskError as e:
            if isinstance(e.cause, JudgeError):
                raise e.cause from None  # hides the replica's traceback from the caller
            raise
        return judgment


class JudgeGateway:
    """Gateway of a service. There is exactly one, because it collects the groups.

    It holds no model and computes little. If it dies, Ray Serve starts another one, and clients repeat their unanswered
    requests. What was judged for these is taken from the store, see `flex_judge.reward.serving.kept_work`.
    """

    def __init__(self, handle: Any, store: Any, config: ServiceConfig) -> None:
        from flex_judge.reward.server.prometheus import PrometheusMetrics

        configure_actor_logging(config.log, "gateway", config.name)
        engine, self._store = config.judge.engine, store
        gateway = config.gateway
        assert gateway is not None, "a service without a gateway has no such deployment"
        folder = gateway.allow_adapter_updates
        loader = None if folder is None else BoardLoader(store, self._count_replicas)
        base_model = name_model(replace(engine, adapter=None))
        self._adapters = AdapterSwitch(name_model(engine), base_model, loader, folder, gateway.deadline_s)
        control = BoardSleepControl(store, self._count_replicas) if engine.allow_sleep else None
        sleep = SleepSwitch(control, gateway.wake_on_request, gateway.deadline_s)
        metrics = PrometheusMetrics(self._adapters.model, config.replica_range[0], gateway.max_pending)
        self._adapters.listeners.append(metrics.set_model)
        self._work_scope = compute_work_scope(config.judge)
        sender = ReplicaSender(handle, self._adapters.choose if loader else lambda: None)
        dispatcher = Dispatcher(sender, config.max_requests, metrics, self._find_recent_judgment)
        archive = WorkArchive(store, self._work_scope, dispatcher.judge, lambda: self._adapters.choose().key)
        self._name, self._min_replicas = config.name, config.replica_range[0]
        parts: dict[str, Any] = {"archive": archive, "adapters": self._adapters, "sleep": sleep}
        self._gateway = Gateway(archive.judge, gateway, metrics, self._get_replica_health, **parts)
        log.info("the gateway has started", extra=with_fields(model=self._adapters.model))
        self._health_report: dict[str, Any] = {}
        self._health_at = -HEALTH_CACHE_S

    def __serve_build_asgi_app__(self) -> Any:
        from flex_judge.reward.server.info import ServiceInfo
        from flex_judge.reward.server.routes import create_app

        # Serve's own HTTP server adds the header X-Request-ID to every response.
        return create_app(self._gateway, ServiceInfo(), sends_request_id=False)

    async def get_pending(self) -> int:
        """Return the number of accepted completions and comparisons without a result."""
        return self._gateway.pending

    async def drain(self) -> None:
        """Refuse new requests, and wait until all accepted ones are answered."""
        log.info("draining", extra=with_fields(pending=self._gateway.pending))
        await self._gateway.drain()

    async def _find_recent_judgment(self, comparison: Comparison, max_age_s: float) -> Judgment | None:
        adapter = self._adapters.choose().key
        return await find_recent_judgment(self._store, self._work_scope, comparison, max_age_s, adapter)

    async def _count_replicas(self) -> int:
        return int((await self._get_replica_health())["replicas"])

    async def _get_replica_health(self) -> Mapping[str, Any]:
        # Cached, because asking Serve's controller is slow and load balancers probe often.
        if time.monotonic() - self._health_at >= HEALTH_CACHE_S:
            self._health_at = time.monotonic()
            self._health_report = await asyncio.to_thread(self._query_serve)
        with suppress(RetryLaterError):  # the report then has the model of the start
            await self._adapters.get_current()
        return {"model": self._adapters.model, **self._health_report}

    def _query_serve(self) -> dict[str, Any]:
        from ray import serve

        application = serve.status().applications.get(self._name)
        running, wanted, _ = count_replicas(application, OTHER_PARTS) if application else (0, 0, "")
        return {
            "replicas": running,
            # Before Serve has created the replicas there are none to count.
            "replicas_wanted": max(wanted, self._min_replicas),
        }


OTHER_PARTS = {JudgeGateway.__name__: "the gateway", KeptWork.__name__: "the store of finished work"}
"""Deployments of the application that hold no judge, with their names in progress messages."""


def name_model(engine: EngineConfig) -> str:
    """Return the public name of a model and its adapter: hub ids in full, the last folder of local paths.

    A remote model has its name at its server, without the address.
    """
    if engine.is_remote:
        return ServedModel.parse(engine.model).name or REMOTE
    names = [engine.model, *([engine.adapter] if engine.adapter else [])]
    return "+".join(n.rstrip("/").rpartition("/")[2] if n.startswith(("/", "./", "../", "~")) else n for n in names)
