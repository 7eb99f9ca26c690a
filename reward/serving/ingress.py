"""Gateway as a Ray Serve deployment: HTTP requests in, comparisons to the replicas, metrics to Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextvars import Context
from typing import Any

from flex_judge.judges.errors import JudgeError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError
from flex_judge.reward.serving.replica import JudgeReplica

HEALTH_CACHE_S = 1.0


class ReplicaSender:
    """`SendFunction` that calls replicas through a Ray Serve handle."""

    def __init__(self, handle: Any) -> None:
        self._judge_one = handle.judge_one

    async def __call__(self, comparison: Comparison) -> Judgment:
        """Send a comparison to a replica.

        Raises:
            ReplicaDiedError: the replica died.
            JudgeError: the comparison cannot be judged.
        """
        from ray.exceptions import RayActorError, RayTaskError

        # In a new context: otherwise all calls within one HTTP request would share its request id, and a router that
        # looks up calls by their id would answer only one of them.
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
                raise e.cause from None  # hides the replica's traceback from the caller
            raise
        return judgment


class JudgeGateway:
    """Gateway of a service. There is exactly one, because it collects the groups.

    It holds no model and computes little. If it dies, Ray Serve starts another one, and clients repeat their unanswered
    requests.
    """

    def __init__(
        self, handle: Any, config: GatewayConfig, max_requests: int, name: str, model: str, replicas: int
    ) -> None:
        metrics = PrometheusMetrics(name)
        dispatcher = Dispatcher(ReplicaSender(handle), max_requests, metrics)
        self._name, self._model, self._min_replicas = name, model, replicas
        self._gateway = Gateway(dispatcher.judge, config, metrics, self._get_replica_health)
        self._health_report: dict[str, Any] = {}
        self._health_at = -HEALTH_CACHE_S

    def __serve_build_asgi_app__(self) -> Any:
        from flex_judge.reward.server.routes import create_app

        return create_app(self._gateway)

    async def get_pending(self) -> int:
        """Return the number of accepted completions and comparisons without a result."""
        return self._gateway.pending

    async def drain(self) -> None:
        """Refuse new requests, and wait until all accepted ones are answered."""
        await self._gateway.drain()

    async def _get_replica_health(self) -> Mapping[str, Any]:
        # Cached, because asking Serve's controller is slow and load balancers probe often.
        if time.monotonic() - self._health_at >= HEALTH_CACHE_S:
            self._health_at = time.monotonic()
            self._health_report = await asyncio.to_thread(self._query_serve)
        return self._health_report

    def _query_serve(self) -> dict[str, Any]:
        from ray import serve
        from ray.serve.schema import ReplicaState

        application = serve.status().applications.get(self._name)
        deployment = application.deployments.get(JudgeReplica.__name__) if application else None
        states = deployment.replica_states if deployment else {}
        wanted = sum(count for state, count in states.items() if state != ReplicaState.STOPPING)
        return {
            "model": self._model,
            "replicas": states.get(ReplicaState.RUNNING, 0),
            # Before Serve has created the replicas there are none to count.
            "replicas_wanted": max(wanted, self._min_replicas),
        }


LATENCY_BUCKETS_S = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600]


class PrometheusMetrics(ServiceMetrics):
    """Counters, gauges and histograms of `ray.util.metrics`, each with the tag `application`."""

    def __init__(self, application: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = {"application": application}

        text = "Accepted completions and comparisons without a result."
        self._pending = Gauge("flex_judge_pending", text, ("application",))
        self._pending.set_default_tags(tags)
        self._counters = {
            name: Counter(f"flex_judge_{name}", text, ("application", *keys))
            for name, text, keys in (
                ("requests", "Answered HTTP requests.", ("route", "code")),
                ("judgments", "Judgments, and rows of requests that cannot be judged.", ("status",)),
                ("prompt_tokens", "Prompt tokens, including cached ones.", ()),
                ("cached_tokens", "Prompt tokens taken from the prefix cache.", ()),
                ("generated_tokens", "Tokens generated by the judge.", ()),
                ("retries", "Comparisons sent again because their replica died.", ()),
                ("compared_orders", "Judgments in more than one response order.", ()),
                ("disagreement", "Sum of these judgments' disagreement between response orders.", ()),
            )
        }
        self._histograms = {
            name: Histogram(f"flex_judge_{name}_seconds", text, LATENCY_BUCKETS_S, ("application", *keys))
            for name, text, keys in (
                ("request", "Time from an HTTP request to its response.", ("route",)),
                ("judgment", "Time from a comparison to its judgment.", ()),
            )
        }
        for metric in (*self._counters.values(), *self._histograms.values()):
            metric.set_default_tags(tags)

    def set_pending(self, count: int) -> None:
        """Set the gauge of pending items."""
        self._pending.set(count)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request and observe its duration."""
        # Ray's histograms accept positive values only.
        self._counters["requests"].inc(1, {"route": route, "code": str(status)})
        self._histograms["request"].observe(max(seconds, 1e-6), {"route": route})

    def record_judgment(self, judgment: Judgment, seconds: float) -> None:
        """Count a judgment and its tokens, and observe its duration."""
        self._counters["judgments"].inc(1, {"status": str(judgment.status)})
        self._histograms["judgment"].observe(max(seconds, 1e-6))
        for name in ("prompt_tokens", "cached_tokens", "generated_tokens"):
            if tokens := getattr(judgment.usage, name):
                self._counters[name].inc(tokens)
        if judgment.disagreement is not None:
            self._counters["compared_orders"].inc(1)
            if judgment.disagreement:
                self._counters["disagreement"].inc(judgment.disagreement)

    def record_invalid_row(self, status: Status) -> None:
        """Count a row as a judgment without duration and tokens."""
        self._counters["judgments"].inc(1, {"status": str(status)})

    def record_retry(self) -> None:
        """Count a retry."""
        self._counters["retries"].inc(1)
