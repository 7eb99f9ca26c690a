"""A judge service for the plug-ins of environment frameworks: its settings there, and the rewards of rollouts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UnscoredError
from flex_judge.reward.client.client import URL_VARIABLE, JudgeClient
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.types import Method, Normalization, Reward, RewardKind, RewardSpec


class ServiceSettings(BaseModel):
    """Settings of a judge service in the configuration of another framework."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    url: str = ""
    """URL of the judge service; empty reads the environment variable FLEX_JUDGE_URL. The API key is read from
    FLEX_JUDGE_API_KEY."""
    rubric: str = "general"
    """Name of a rubric."""
    method: Method = "pointwise"
    """How the completions of a prompt are compared."""
    reward: RewardKind = "expected"
    """Statistic of the judgments that becomes the reward."""
    normalize: Normalization = "none"
    """Normalization of the rewards of a group."""
    group_size: int | None = None
    """Number of completions of a prompt, if the service must collect them from several calls."""
    group_timeout_s: float = 60.0
    """Seconds that the service waits for the completions of a group."""
    run: str = ""
    """Name that separates the groups of this run from other runs on the same service."""
    deadline_s: float = 600.0
    """Time limit of a call in seconds."""
    concurrency: int = 64
    """Maximum number of concurrent requests of this process."""

    @model_validator(mode="after")
    def check_settings(self) -> Self:
        """Read a missing URL from the environment, and check all values together."""
        if not self.url:
            url = os.environ.get(URL_VARIABLE, "").strip()
            if not url:
                raise ValueError(f"url: there is none; set it, or the environment variable {URL_VARIABLE}")
            self.url = url
        self.build_client()
        self.build_spec()
        return self

    def build_client(self) -> JudgeClient:
        """Build the client. Clients with equal settings share their connections.

        Raises:
            UsageError: a setting is invalid.
        """
        return JudgeClient(self.url, deadline_s=self.deadline_s, concurrency=self.concurrency)

    def build_spec(self) -> RewardSpec:
        """Build the definition of the rewards.

        Raises:
            UsageError: a setting is invalid.
        """
        return RewardSpec.from_fields(self)


async def judge_rows(
    client: JudgeClient, spec: RewardSpec, rows: Iterable[Mapping[str, Any]], view: View = "full"
) -> list[Reward]:
    """Judge rollouts. A row that cannot be read, or has no answer in time, is a reward without a value.

    Args:
        client: the client.
        spec: definition of the rewards.
        rows: arguments of `flex_judge.reward.integrations.rows.RowConverter.build_sample`.
        view: what the judge sees of a rollout with several messages.

    Raises:
        UsageError: the service rejects the key or the settings.
        ServiceUnavailableError: the service judges nothing in consecutive calls.
    """
    return await RowConverter(view).convert_rows(rows, "rollouts").judge(client, spec)


def require_values(rewards: Sequence[Reward]) -> list[float]:
    """Return the values of rewards.

    Raises:
        UnscoredError: one of them has none; the message has the status and the reason of the first one.
    """
    failed = [r for r in rewards if r.value is None]
    if failed:
        raise UnscoredError(
            f"{len(failed)} of {len(rewards)} rollouts have no score; the first: {failed[0].status}: {failed[0].detail}"
        )
    return [r.value for r in rewards if r.value is not None]
