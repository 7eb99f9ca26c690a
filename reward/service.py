"""The judge as a Ray Serve application: replicas that each hold one engine, and the client that spreads work on them.

Ray Serve does the placing, the balancing, the health checks and the restarts. What is ours: candidates of a question
go to one replica, because they share its prefix cache; and what was under way on a replica that died is judged by
another.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from judges import Comparison, FlexJudge, JudgeConfig, Judgment, Status
from judges.errors import ClusterError, EngineLostError, UsageError
from reward.cluster import Cluster

READY_POLL_S = 0.5


@dataclass(frozen=True)
class ServiceConfig:
    judge: JudgeConfig
    replicas: int = 2
    name: str = "flex-judge"
    """Name of the Serve application; must be unique within the cluster."""
    cpus_per_replica: float = 1.0
    gpus_per_replica: float = 0.0
    groups_per_replica: int = 8
    """Groups that a replica works on at the same time; more wait until one has room, so that all stay busy."""
    health_check_period_s: float = 2.0
    health_check_timeout_s: float = 30.0

    def placed_on(self, cluster: Cluster) -> ServiceConfig:
        """With each replica's share of the cluster: a whole GPU if there are enough, else a part of one, else CPUs.

        Raises:
            ClusterError: the cluster is too small.
        """
        if cluster.cpus < self.replicas:
            raise ClusterError(
                f"{self.replicas} replicas need a CPU each and the cluster has {cluster.cpus:g}; use fewer --replicas"
            )
        if cluster.gpus:
            engine = replace(self.judge.engine, own_process=True)
            gpus = min(1.0, cluster.gpus / self.replicas)
            return replace(self, gpus_per_replica=gpus, judge=replace(self.judge, engine=engine))
        cpus = cluster.cpus // self.replicas if cluster.local else 1.0
        engine = replace(self.judge.engine, threads=self.judge.engine.threads or int(cpus))
        return replace(self, cpus_per_replica=cpus, judge=replace(self.judge, engine=engine))


class JudgeReplica:
    """One judge in one Ray actor."""

    def __init__(self, config: JudgeConfig) -> None:
        from ray import serve

        self.id = serve.get_replica_context().replica_id.unique_id
        self.judge = FlexJudge.from_config(config)

    async def judge_group(self, comparisons: list[Comparison]) -> AsyncIterator[Judgment]:
        """Judge comparisons side by side; yields judgments as they are ready, in any order."""
        tasks = [asyncio.ensure_future(self.judge.ajudge(c)) for c in comparisons]
        try:
            for done in asyncio.as_completed(tasks):
                judgment = await done
                yield replace(judgment, provenance={**judgment.provenance, "replica": self.id})
        except EngineLostError:
            # Nobody may be sent to a judge without an engine: leave at once, Serve starts another.
            os._exit(1)
        finally:
            for task in tasks:
                task.cancel()

    async def check_health(self) -> None:
        await self.judge.engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "judge"):
            self.judge.close()


class JudgeService:
    """A running judge service, and the client to it. Use as `async with JudgeService(config) as service`.

    Entering only asks for the replicas; `ready` waits for them, so that other work can be done meanwhile.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._handle: Any = None
        self._started_serve = False

    async def __aenter__(self) -> JudgeService:
        try:
            await asyncio.to_thread(self._deploy)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.shield(asyncio.to_thread(self._remove))

    async def ready(self) -> None:
        """Wait until every replica can judge.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve
        from ray.serve.schema import ApplicationStatus, DeploymentStatus

        while True:
            application = serve.status().applications.get(self.config.name)
            if application is not None:
                deployment = application.deployments.get(JudgeReplica.__name__)
                if application.status == ApplicationStatus.DEPLOY_FAILED or (
                    deployment is not None and deployment.status == DeploymentStatus.DEPLOY_FAILED
                ):
                    reason = (deployment.message if deployment else "") or application.message
                    raise ClusterError(f"the judge service could not start: {_last_line(reason)}")
                if application.status == ApplicationStatus.RUNNING:
                    return
            await asyncio.sleep(READY_POLL_S)

    async def stream(self, groups: Sequence[Sequence[Comparison]]) -> AsyncIterator[Judgment]:
        """Judge groups of comparisons, each group on one replica; yields judgments as they are ready.

        Every comparison gives exactly one judgment. Judgments are told apart by their comparison's id.

        What was on a replica that died is tried once more in company; what was on two is tried alone at the end, so
        that a comparison that kills replicas takes none of the others with it: it is `engine_lost`.

        Raises:
            UsageError: an id occurs twice, or a comparison cannot be judged at all (an unknown rubric, say).
        """
        repeated = [i for i, n in Counter(c.id for group in groups for c in group).items() if n > 1]
        if repeated:
            raise UsageError(f"{len(repeated)} comparison ids occur more than once, {repeated[0]!r} among them")
        found: asyncio.Queue[Judgment | None] = asyncio.Queue()
        limit = asyncio.Semaphore(self.config.replicas * self.config.groups_per_replica)
        suspects: list[Comparison] = []

        async def run(group: Sequence[Comparison]) -> None:
            async with limit:
                left = await self._attempt(group, found)
                if left:
                    suspects.extend(await self._attempt(left, found))

        async def run_all() -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for group in groups:
                        tasks.create_task(run(group))
                for suspect in suspects:
                    if await self._attempt([suspect], found):
                        detail = "three judge replicas died while they had this in hand, the last one nothing else"
                        found.put_nowait(Judgment.unscored(suspect.id, Status.ENGINE_LOST, detail))
            except ExceptionGroup as e:
                raise e.exceptions[0] from e
            finally:
                found.put_nowait(None)

        producer = asyncio.create_task(run_all())
        try:
            while (judgment := await found.get()) is not None:
                yield judgment
            await producer
        finally:
            producer.cancel()

    async def _attempt(self, group: Sequence[Comparison], found: asyncio.Queue[Judgment | None]) -> list[Comparison]:
        """Have a replica judge a group. Returns what is left to do because the replica died."""
        from ray.exceptions import RayActorError

        left = {comparison.id: comparison for comparison in group}
        try:
            async for judgment in self._handle.judge_group.remote(list(group)):
                del left[judgment.id]
                found.put_nowait(judgment)
        except RayActorError:
            await asyncio.sleep(1.0)  # Serve takes a moment to notice that the replica is gone
        return list(left.values())

    def _deploy(self) -> None:
        import ray
        from ray import serve

        c = self.config
        try:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        except ValueError:
            self._started_serve = True
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "ERROR"})
        if c.name in serve.status().applications:
            raise ClusterError(
                f"the cluster already runs an application called {c.name!r}; if nobody uses it, remove it with: "
                f"serve delete {c.name} -y"
            )
        deployment = serve.deployment(JudgeReplica).options(
            num_replicas=c.replicas,
            max_ongoing_requests=c.groups_per_replica,
            ray_actor_options={"num_cpus": c.cpus_per_replica, "num_gpus": c.gpus_per_replica},
            health_check_period_s=c.health_check_period_s,
            health_check_timeout_s=c.health_check_timeout_s,
            graceful_shutdown_timeout_s=5,
            logging_config={"enable_access_log": False, "log_level": "ERROR"},
        )
        target = serve.RunTarget(target=deployment.bind(c.judge), name=c.name, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        self._handle = handle.options(stream=True)

    def _remove(self) -> None:
        from ray import serve

        if self._started_serve:
            serve.shutdown()
        elif self._handle is not None:  # another's application of the same name is not ours to delete
            serve.delete(self.config.name)


def _last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["no reason given"])[-1][:300]
