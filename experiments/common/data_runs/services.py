"""Policy and judge services of a run over prompts, on one Ray cluster."""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.pipeline.policy_service import PolicyService, PolicyServiceConfig
from flex_judge.alignment.policies.config import PolicyConfig
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.progress import Phase, Progress, show_ray_start
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import interrupt_on_stop
from flex_judge.judges.concurrency import gather_all
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.config import compute_gpu_share
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class RunServices:
    """Policy and judge services of a run on one Ray cluster."""

    config: DataFlags
    folder: RunFolder
    console: Console
    progress: Progress

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]]:
        """Start the services, wait until they are ready, and yield their configurations."""
        async with contextlib.AsyncExitStack() as stack:
            address, timeout_s = self.config.address, self.config.start_timeout_s
            with (
                show_ray_start(self.progress, address, timeout_s),
                self.folder.time_phase("starting_Ray"),
                interrupt_on_stop(),
            ):
                cluster = stack.enter_context(connect(address, timeout_s))
            policy, judge = self._place_services(cluster)
            # Names are derived from the run folder, which is locked, so no other process uses them.
            services: list[JudgeService | PolicyService] = [PolicyService(policy, private=True)]
            if isinstance(judge, ServiceConfig):
                services.insert(0, JudgeService(judge, private=True))
            with self.folder.time_phase("models_starting"):
                phases = [
                    self.progress.start_phase(f"starting {'judge' if isinstance(service, JudgeService) else 'policy'}")
                    for service in services
                ]
                for service in services:
                    await stack.enter_async_context(service)
                await gather_all(map(self._wait_until_ready, services, phases))
            yield policy, judge
            self.console.print("stopping Ray" if cluster.local else "leaving Ray")

    async def _wait_until_ready(self, service: JudgeService | PolicyService, phase: Phase) -> None:
        await service.wait_until_ready(phase.report_replicas)
        self.progress.end_phase(phase)

    def _place_services(self, cluster: Cluster) -> tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]:
        """Configure both services; every engine gets an equal share of the cluster."""
        config = self.config
        policy, external_judge = config.policy_config, config.external_judge
        has_local_policy = policy.url is None
        has_local_judge = external_judge is None and not config.engine_config.is_remote
        engines = config.replicas * has_local_judge + config.policy_replicas * has_local_policy
        gpus = compute_gpu_share(cluster.gpus, engines) if engines else 0.0
        # CPUs are divided only on a local cluster: a shared one may have other users.
        cpus = 1.0 if gpus or not cluster.local else cluster.cpus / max(1, engines)
        if has_local_policy:
            policy = _apply_share(policy, cpus, gpus)
        policy_service = PolicyServiceConfig(
            policy,
            config.policy_replicas,
            name=self._name_service("policy"),
            cpus_per_replica=cpus * has_local_policy,
            gpus_per_replica=gpus * has_local_policy,
        )
        if external_judge is not None:
            return policy_service, external_judge
        judge = ServiceConfig(
            config.judge_config,
            config.replicas,
            name=self._name_service("judge"),
            cpus_per_replica=cpus if has_local_judge else None,
            gpus_per_replica=gpus if has_local_judge else None,
        )
        return policy_service, judge.place_on(cluster)

    def _name_service(self, part: str) -> str:
        """Build a service name from the run folder; other runs may use the same cluster."""
        folder = f"{platform.node()}:{self.folder.path.resolve()}"
        return f"flex-judge-{part}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def _apply_share(policy: PolicyConfig, cpus: float, gpus: float) -> PolicyConfig:
    """Give the policy its share of a machine, as `ServiceConfig.place_on` does for judges."""
    if gpus:
        # Replicas that share a GPU share its memory in the same proportion.
        share = round(policy.gpu_memory_utilization * gpus, 3)
        return replace(policy, own_process=True, gpu_memory_utilization=share)
    return replace(policy, threads=policy.threads or max(1, int(cpus)))
