"""The policy and the judge of a run: within a process, or as services of the cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from alignment.policies import Policy, PolicyConfig, load_policy
from alignment.scale.policy_service import PolicyServiceConfig, RemotePolicy
from judges import FlexJudge, JudgeConfig
from reward.config import ServiceConfig
from reward.groups.judging import Ask


class Models(Protocol):
    """Where a worker finds its models. Picklable."""

    async def open(self) -> tuple[Policy, Ask]: ...


@dataclass(frozen=True)
class ServedModels:
    """Services that are ready, on the cluster that the worker is on."""

    policy: PolicyServiceConfig
    judge: ServiceConfig

    async def open(self) -> tuple[Policy, Ask]:
        from reward.service import dispatcher_of

        return await RemotePolicy.of(self.policy), dispatcher_of(self.judge).judge


@dataclass(frozen=True)
class LocalModels:
    """Models of the worker's own."""

    policy: PolicyConfig
    judge: JudgeConfig

    async def open(self) -> tuple[Policy, Ask]:
        policy = await asyncio.to_thread(load_policy, self.policy)
        return policy, (await asyncio.to_thread(FlexJudge.from_config, self.judge)).ajudge
