"""Policy on Ray Serve: replicas that each hold one model, and the client to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.config import ENDPOINT_ENGINE, PolicyConfig, load_policy
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import EngineLostError, JudgeError
from flex_judge.judges.types import Message
from flex_judge.judges.validation.classes import NonNegativeFloat, PositiveInt, settings_class
from flex_judge.reward.serving.deployment import DRAIN_POLL_S, QUIET, ReportReplicas, ServeApplication
from flex_judge.reward.serving.replica import exit_process_tree

MAX_TRIES = 3
"""Maximum number of replicas to try for one prompt. Limited, because the prompt itself may crash the engine."""
RETRY_PAUSE_S = 2.0
"""Pause before the second try, doubled before the third. Serve needs a moment to notice that a replica is dead."""
HEALTH_CHECK_PERIOD_S = 2.0
"""Seconds between health checks; a dead replica is replaced after about as long."""
SHUTDOWN_TIMEOUT_S = 5.0
"""Seconds that a replica gets to finish at the end; samples that it loses are only needed by a cancelled run."""


@settings_class
class PolicyServiceConfig:
    """Settings of a policy service."""

    policy: PolicyConfig
    replicas: PositiveInt = 1
    """Number of policy replicas."""
    name: str = "flex-judge-policy"
    """Name of the Serve application; must be unique within the cluster."""
    cpus_per_replica: NonNegativeFloat = 1.0
    gpus_per_replica: NonNegativeFloat = 0.0
    prompts_at_once: PositiveInt = 64
    """Maximum number of prompts in progress per replica; further ones wait in the queue."""


class PolicyReplica:
    """Serve replica that holds one policy. It ends its process if the engine is lost, and Ray Serve starts another.

    A remote endpoint is not restarted: its requests are retried here for `PolicyConfig.deadline_s`.
    """

    async def __init__(self, config: PolicyConfig) -> None:  # type: ignore[misc] # awaited by Ray Serve
        self.policy = load_policy(config)
        self._is_endpoint = config.kind == ENDPOINT_ENGINE

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`."""
        try:
            return await self.policy.sample(prompt, sampling, sample_indices)
        except EngineLostError:
            if self._is_endpoint:
                raise
            exit_process_tree()

    async def model_id(self) -> str:
        """Return the id of the policy's model."""
        return self.policy.model_id

    async def check_health(self) -> None:
        """End the process if the engine is lost. Called by Ray Serve every `HEALTH_CHECK_PERIOD_S` seconds."""
        if self._is_endpoint:
            return
        try:
            await self.policy.check_health()
        except EngineLostError:
            exit_process_tree()

    def __del__(self) -> None:
        # Ray Serve calls this when it stops a replica; there is no other hook. The policy is missing if loading failed.
        if hasattr(self, "policy"):
            self.policy.close()


class PolicyService:
    """Policy deployed on Ray Serve while the context manager is open.

    Example:
        async with PolicyService(config) as service:
            await service.wait_until_ready()
            policy = await RemotePolicy.from_config(config)
    """

    def __init__(self, config: PolicyServiceConfig, private: bool = False) -> None:
        """Prepare the service; entering the context deploys it.

        Args:
            config: Settings of the service.
            private: Whether nobody else uses this name. An application of the same name is then the leftover of a
                killed process and is removed first.
        """
        self.config = config
        self._application = ServeApplication(config.name, "policy", private=private)

    async def __aenter__(self) -> PolicyService:
        await self._application.deploy_async(_build_application(self.config))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._application.remove_async()

    async def wait_until_ready(self, report: ReportReplicas | None = None) -> None:
        """Wait until every replica can sample.

        Args:
            report: Receives the number of running replicas while they start.

        Raises:
            ClusterError: A replica could not be started; the message gives the reason.
        """
        await self._application.wait_until_ready(report)


class RemotePolicy:
    """`Policy` that samples from a policy service, in any process of the Ray cluster.

    Use an instance in one event loop only.
    """

    def __init__(self, config: PolicyServiceConfig, model_id: str) -> None:
        from ray import serve

        self.model_id = model_id
        self._handle = serve.get_deployment_handle(PolicyReplica.__name__, config.name)

    @classmethod
    async def from_config(cls, config: PolicyServiceConfig) -> RemotePolicy:
        """Connect to a service that is ready."""
        policy = cls(config, "")
        policy.model_id = await policy._handle.model_id.remote()
        return policy

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`. If a replica dies, the request is retried on another one."""
        from ray.exceptions import RayActorError, RayTaskError

        for attempt in range(MAX_TRIES):
            await asyncio.sleep(RETRY_PAUSE_S * attempt)
            # A new context: otherwise all calls within one Serve request share its request id, and a router that looks
            # calls up by id would answer only one of them.
            response = Context().run(self._handle.sample.remote, tuple(prompt), sampling, tuple(sample_indices))
            try:
                completions: list[Completion] = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayActorError:
                continue
            except RayTaskError as e:
                if isinstance(e.cause, JudgeError):
                    raise e.cause from None
                raise
            return completions
        raise EngineLostError(f"the policy's replicas died {MAX_TRIES} times while sampling this prompt")

    async def check_health(self) -> None:
        """Do nothing: Serve checks the replicas."""

    def close(self) -> None:
        """Do nothing: the client holds no resources."""


def _build_application(config: PolicyServiceConfig) -> Any:
    from ray import serve

    options = {
        "num_replicas": config.replicas,
        "max_ongoing_requests": config.prompts_at_once,
        "ray_actor_options": {"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
        "health_check_period_s": HEALTH_CHECK_PERIOD_S,
        "graceful_shutdown_timeout_s": SHUTDOWN_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "logging_config": QUIET,
    }
    return serve.deployment(PolicyReplica).options(**options).bind(config.policy)
