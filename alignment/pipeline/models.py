"""The policy and the judge of a run: within a process, or as services of the cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from flex_judge.alignment.pipeline.policy_service import PolicyServiceConfig, RemotePolicy
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.policies.config import PolicyConfig, load_policy
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.groups.methods import Ask
from flex_judge.reward.serving.config import ServiceConfig


class Models(Protocol):
    """Where a worker finds its models. Picklable."""

    async def open(self) -> tuple[Policy, Ask]: ...


@dataclass(frozen=True)
class RemoteJudge:
    """A judge service that runs already, asked over HTTP."""

    url: str
    max_requests: int = 64
    """Comparisons that it is sent at a time."""
    api_key: str | None = field(default=None, repr=False)
    """Where its key is: `env:NAME` or a file, read where it is asked. Never the key itself."""

    @property
    def client(self) -> JudgeClient:
        """
        Raises:
            UsageError: the address is none, or the key cannot be read.
        """
        return JudgeClient(self.url, read_key(self.api_key) if self.api_key else None, concurrency=self.max_requests)

    def make_ask(self) -> Ask:
        client = self.client

        async def ask_client(comparison: Comparison) -> Judgment:
            return (await client.judge([comparison]))[0]

        return ask_client


@dataclass(frozen=True)
class ServedModels:
    """Services that are ready: the policy on the cluster that the worker is on, the judge there or elsewhere."""

    policy: PolicyServiceConfig
    judge: ServiceConfig | RemoteJudge

    async def open(self) -> tuple[Policy, Ask]:
        from flex_judge.reward.serving.service import create_dispatcher

        judge = self.judge
        return await RemotePolicy.from_config(self.policy), (
            judge.make_ask() if isinstance(judge, RemoteJudge) else create_dispatcher(judge).judge
        )


@dataclass(frozen=True)
class LocalModels:
    """Models of the worker's own."""

    policy: PolicyConfig
    judge: JudgeConfig

    async def open(self) -> tuple[Policy, Ask]:
        from flex_judge.judges.judge import FlexJudge  # in the worker only

        policy = await asyncio.to_thread(load_policy, self.policy)
        return policy, (await asyncio.to_thread(FlexJudge.from_config, self.judge)).ajudge
