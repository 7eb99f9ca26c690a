"""A policy on Ray Serve: replicas that sample, each with one model, and the client to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from alignment.policies import Completion, PolicyConfig, load_policy
from judges.engines import Sampling
from judges.errors import EngineLostError, JudgeError, UsageError
from judges.types import Message
from reward.serving.deployed import QUIET, Deployed

TRIES = 3
"""Of a prompt, on a policy that dies: it may be the prompt that kills it."""


@dataclass(frozen=True)
class PolicyServiceConfig:
    policy: PolicyConfig
    replicas: int = 1
    name: str = "flex-judge-policy"
    """Name of the Serve application; must be unique within the cluster."""
    cpus_per_replica: float = 1.0
    gpus_per_replica: float = 0.0
    prompts_at_once: int = 64
    """Prompts that a replica takes at a time; more wait in front of it."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"policy replicas must be at least 1, not {self.replicas}")


class PolicyReplica:
    """Holds one policy, and ends its process when the policy is lost: Ray Serve then starts another one."""

    async def __init__(self, config: PolicyConfig) -> None:  # type: ignore[misc] # awaited by Ray Serve
        self.policy = load_policy(config)

    async def sample(self, prompt: Sequence[Message], sampling: Sampling, draws: Sequence[int]) -> list[Completion]:
        return await self.policy.sample(prompt, sampling, draws)

    async def model_id(self) -> str:
        return self.policy.model_id

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds; what it raises makes Serve replace the replica."""
        await self.policy.check_health()

    def __del__(self) -> None:
        if hasattr(self, "policy"):
            self.policy.close()


class PolicyService:
    """A running policy. Use as `async with PolicyService(config) as service`, then wait for `ready`."""

    def __init__(self, config: PolicyServiceConfig) -> None:
        self.config = config
        self._deployed = Deployed(config.name, "policy")

    async def __aenter__(self) -> PolicyService:
        try:
            await asyncio.to_thread(self._deployed.deploy, _application(self.config))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.shield(asyncio.to_thread(self._deployed.remove))

    async def ready(self) -> None:
        """Wait until every replica can sample. Raises ClusterError, which says why, if one could not be started."""
        await self._deployed.ready()


class RemotePolicy:
    """A policy service as a `Policy`, in any process of its cluster. For one event loop."""

    def __init__(self, config: PolicyServiceConfig, model_id: str) -> None:
        from ray import serve

        self.model_id = model_id
        self._handle = serve.get_deployment_handle(PolicyReplica.__name__, config.name)

    @classmethod
    async def of(cls, config: PolicyServiceConfig) -> RemotePolicy:
        """The client to a service that is ready."""
        policy = cls(config, "")
        policy.model_id = await policy._handle.model_id.remote()
        return policy

    async def sample(self, prompt: Sequence[Message], sampling: Sampling, draws: Sequence[int]) -> list[Completion]:
        """See `Policy.sample`. What was in hand on a replica that died is asked of another, a few times."""
        from ray.exceptions import RayActorError, RayTaskError

        for _ in range(TRIES):
            # In a context of its own, see `reward.serving.ingress.Sender`.
            response = Context().run(self._handle.sample.remote, tuple(prompt), sampling, tuple(draws))
            try:
                completions: list[Completion] = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except RayActorError:
                continue
            except RayTaskError as e:
                if isinstance(e.cause, EngineLostError):
                    continue
                if isinstance(e.cause, JudgeError):
                    raise e.cause from None
                raise
            return completions
        raise EngineLostError(f"{TRIES} replicas of the policy were lost while they had this prompt in hand")

    async def check_health(self) -> None:
        """Serve watches the replicas."""

    def close(self) -> None:
        """Nothing is held here."""


def _application(config: PolicyServiceConfig) -> Any:
    from ray import serve

    options = {
        "num_replicas": config.replicas,
        "max_ongoing_requests": config.prompts_at_once,
        "ray_actor_options": {"num_cpus": config.cpus_per_replica, "num_gpus": config.gpus_per_replica},
        "health_check_period_s": 2.0,
        "graceful_shutdown_timeout_s": 5.0,
        "logging_config": QUIET,
    }
    return serve.deployment(PolicyReplica).options(**options).bind(config.policy)
