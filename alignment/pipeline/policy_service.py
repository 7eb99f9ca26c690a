"""A policy on Ray Serve: replicas that sample, each with one model, and the client to them."""

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
from flex_judge.reward.serving.deployment import DRAIN_POLL_S, QUIET, ServeApplication
from flex_judge.reward.serving.replica import exit_process_tree

MAX_TRIES = 3
"""Of a prompt, on a policy that dies: it may be the prompt that kills it."""
RETRY_PAUSE_S = 2.0
"""Before a second try; twice that before a third. Serve needs a moment to see that a replica is dead."""


@settings_class
class PolicyServiceConfig:
    """A policy service: the policy that each replica holds, and how many replicas there are."""

    policy: PolicyConfig
    replicas: PositiveInt = 1
    """Number of policy replicas."""
    name: str = "flex-judge-policy"
    """Name of the Serve application; must be unique within the cluster."""
    cpus_per_replica: NonNegativeFloat = 1.0
    gpus_per_replica: NonNegativeFloat = 0.0
    prompts_at_once: PositiveInt = 64
    """Maximum number of prompts in progress on a replica; more wait in front of it."""


class PolicyReplica:
    """Holds one policy, and ends its process when the policy is lost: Ray Serve then starts another one.

    An endpoint is not this process's to lose: while it is away its requests are repeated here, for as long as
    `PolicyConfig.deadline_s` says.
    """

    async def __init__(self, config: PolicyConfig) -> None:  # type: ignore[misc] # awaited by Ray Serve
        self.policy = load_policy(config)
        self._elsewhere = config.kind == ENDPOINT_ENGINE

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        try:
            return await self.policy.sample(prompt, sampling, sample_indices)
        except EngineLostError:
            if self._elsewhere:
                raise
            exit_process_tree()

    async def model_id(self) -> str:
        return self.policy.model_id

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds."""
        if self._elsewhere:
            return
        try:
            await self.policy.check_health()
        except EngineLostError:
            exit_process_tree()

    def __del__(self) -> None:
        if hasattr(self, "policy"):
            self.policy.close()


class PolicyService:
    """A running policy. Use as `async with PolicyService(config) as service`, then wait for `ready`."""

    def __init__(self, config: PolicyServiceConfig, private: bool = False) -> None:
        """
        Args:
            private: whether a service of that name can only be what a killed process left, and is removed first.
        """
        self.config = config
        self._deployed = ServeApplication(config.name, "policy", private=private)

    async def __aenter__(self) -> PolicyService:
        await self._deployed.deploy_async(_build_application(self.config))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._deployed.remove_async()

    async def wait_until_ready(self) -> None:
        """Wait until every replica can sample. Raises ClusterError, which says why, if one could not be started."""
        await self._deployed.wait_until_ready()


class RemotePolicy:
    """A policy service as a `Policy`, in any process of its cluster. For one event loop."""

    def __init__(self, config: PolicyServiceConfig, model_id: str) -> None:
        from ray import serve

        self.model_id = model_id
        self._handle = serve.get_deployment_handle(PolicyReplica.__name__, config.name)

    @classmethod
    async def from_config(cls, config: PolicyServiceConfig) -> RemotePolicy:
        """The client to a service that is ready."""
        policy = cls(config, "")
        policy.model_id = await policy._handle.model_id.remote()
        return policy

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`. What was in hand on a replica that died is asked of another, a few times."""
        from ray.exceptions import RayActorError, RayTaskError

        for number in range(MAX_TRIES):
            await asyncio.sleep(RETRY_PAUSE_S * number)
            # In a context of its own, see `flex_judge.reward.serving.ingress.Sender`.
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
        raise EngineLostError(f"{MAX_TRIES} replicas of the policy were lost while they had this prompt in hand")

    async def check_health(self) -> None:
        """Serve watches the replicas."""

    def close(self) -> None:
        """Nothing is held here."""


def _build_application(config: PolicyServiceConfig) -> Any:
    from ray import serve

    options = {
        "num_replicas": config.replicas,
        "max_ongoing_requests": config.prompts_at_once,
        "ray_actor_options": {"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
        "health_check_period_s": 2.0,
        "graceful_shutdown_timeout_s": 5.0,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "logging_config": QUIET,
    }
    return serve.deployment(PolicyReplica).options(**options).bind(config.policy)
