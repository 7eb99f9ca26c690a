"""Access to the policy and the judge of a run: in the worker's process or as services on the cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from flex_judge.alignment.pipeline.policy_service import PolicyServiceConfig, RemotePolicy
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.policies.config import PolicyConfig, load_policy
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.groups.methods import JudgeFunction
from flex_judge.reward.serving.config import ServiceConfig


class Models(Protocol):
    """Picklable access to the models of a run."""

    async def open(self) -> tuple[Policy, JudgeFunction]:
        """Return the policy and a function that asks the judge."""
        ...


@dataclass(frozen=True)
class RemoteJudge:
    """Judge service that is already running, reached over HTTP."""

    url: str
    max_requests: int = 64
    """Maximum number of comparisons sent at the same time."""
    api_key: str | None = field(default=None, repr=False)
    """Source of the key: `env:NAME` or a file, read in the worker. Never the key itself, because this object is pickled
    and sent to the workers."""

    @property
    def client(self) -> JudgeClient:
        """A new client for the service.

        Raises:
            UsageError: The URL is invalid or the key cannot be read.
        """
        return JudgeClient(self.url, read_key(self.api_key) if self.api_key else None, concurrency=self.max_requests)

    def make_ask(self) -> JudgeFunction:
        """Return a function that sends one comparison to the service."""
        client = self.client

        async def ask_client(comparison: Comparison) -> Judgment:
            (judgment,) = await client.judge([comparison])
            # The rubric is a setting of the run, so that a service without it concerns every row.
            if judgment.status == Status.INVALID_INPUT and judgment.detail.startswith("rubric: "):
                raise UsageError(judgment.detail)
            return judgment

        return ask_client


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
