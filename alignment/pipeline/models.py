"""Access to the policy and the judge of a run: in the worker's process or as services on the cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.pipeline.policy_service import PolicyServiceConfig, RemotePolicy
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.policies.config import PolicyConfig, load_policy
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.reward.groups.methods import JudgeFunction
from flex_judge.reward.serving.config import ServiceConfig


class Models(Protocol):
    """Picklable access to the models of a run."""

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """Return the policy and a function that asks the judge."""
        ...


@dataclass(frozen=True)
class ServedModels:
    """Running services: the policy on the worker's cluster, the judge there or elsewhere."""

    policy: PolicyServiceConfig
    judge: ServiceConfig | RemoteJudge

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """See `Models.open`."""
        from flex_judge.reward.serving.service import create_dispatcher

        policy = await RemotePolicy.from_config(self.policy)
        if isinstance(self.judge, RemoteJudge):
            return policy, self.judge.make_ask()
        return policy, create_dispatcher(self.judge).judge


@dataclass(frozen=True)
class OpenModels:
    """Models that are open already, in a run without a cluster."""

    policy: Policy
    ask_judge: JudgeFunction

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """Return them."""
        return self.policy, self.ask_judge


@dataclass(frozen=True)
class LocalModels:
    """Models loaded in the worker's own process."""

    policy: PolicyConfig
    judge: JudgeConfig

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """See `Models.open`."""
        from flex_judge.judges.judge import FlexJudge  # in the worker only: the driver loads no model

        policy = await asyncio.to_thread(load_policy, self.policy)
        judge = await asyncio.to_thread(FlexJudge.from_config, self.judge)
        return policy, judge.ajudge
