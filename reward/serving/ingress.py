"""The gateway as a deployment of Ray Serve: HTTP in front, replicas behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context
from typing import Any

from flex_judge.judges import Comparison, Judgment
from flex_judge.judges.errors import JudgeError
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError
from flex_judge.reward.serving.prometheus import PrometheusMetrics
from flex_judge.reward.serving.replica import JudgeReplica

HEALTH_AGE_S = 1.0


class Sender:
    """Has replicas judge comparisons through a handle of Ray Serve."""

    def __init__(self, handle: Any) -> None:
        self._judge_one = handle.judge_one

    async def __call__(self, comparison: Comparison) -> Judgment:
        from ray.exceptions import RayActorError, RayTaskError

        # In a context of its own: calls made while a request is handled would all get that request's id, and a router
        # that finds calls by their ids would answer only one of them.
        response = Context().run(self._judge_one.remote, comparison, prefix=comparison.prompt_digest)
        try:
            judgment: Judgment = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayActorError as e:
            raise ReplicaDiedError(e.actor_id or "") from e
        except RayTaskError as e:
            if isinstance(e.cause, JudgeError):
                raise e.cause from None  # without the replica's traceback, which is no business of the caller
            raise
        return judgment


class JudgeGateway:
    """The one gateway of a service: groups are gathered here, so there are no two of them.

    It computes nothing and holds no model. If it dies, Ray Serve starts another one and clients send again what has
    no answer.
    """

    def __init__(self, handle: Any, config: GatewayConfig, room: int, name: str) -> None:
        metrics = PrometheusMetrics(name)
        dispatcher = Dispatcher(Sender(handle), room, metrics)
        self._name = name
        self._gateway = Gateway(dispatcher.judge, config, metrics, self._health)
        self._known: dict[str, Any] = {}
        self._known_at = -HEALTH_AGE_S

    def __serve_build_asgi_app__(self) -> Any:
        from flex_judge.reward.server.routes import asgi_app

        return asgi_app(self._gateway)

    async def pending(self) -> int:
        """Completions and comparisons that are accepted and not yet answered."""
        return self._gateway.pending

    async def drain(self) -> None:
        """Refuse new work from now on, and return when what was accepted is answered."""
        await self._gateway.drain()

    async def _health(self) -> Mapping[str, Any]:
        if time.monotonic() - self._known_at >= HEALTH_AGE_S:
            self._known_at = time.monotonic()
            self._known = await asyncio.to_thread(self._ask_serve)
        return self._known

    def _ask_serve(self) -> dict[str, Any]:
        from ray import serve
        from ray.serve.schema import ReplicaState

        application = serve.status().applications.get(self._name)
        deployment = application.deployments.get(JudgeReplica.__name__) if application else None
        states = deployment.replica_states if deployment else {}
        return {"replicas": states.get(ReplicaState.RUNNING, 0)}
