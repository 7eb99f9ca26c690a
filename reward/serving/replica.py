"""One judge in one Ray actor."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NoReturn

from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison


class JudgeReplica:
    """Holds one engine, and ends its process when the engine is lost: Ray Serve then starts another one elsewhere."""

    async def __init__(self, config: JudgeConfig) -> None:  # type: ignore[misc] # awaited by Ray Serve
        from ray import serve

        from flex_judge.judges.judge import FlexJudge  # in the actor only: the driver needs no judge

        self.id = serve.get_replica_context().replica_id.unique_id
        self.judge = FlexJudge.from_config(config)
        await self.judge.warm_up()

    async def judge_one(self, comparison: Comparison, prefix: str) -> Judgment:  # noqa: ARG002 - the router reads it
        """Judge a comparison; `prefix` says what it shares with others, for `flex_judge.reward.serving.routing`."""
        try:
            judgment = await self.judge.ajudge(comparison)
        except EngineLostError:
            exit_process_tree()
        return replace(judgment, provenance={**judgment.provenance, "replica": self.id})

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds."""
        try:
            await self.judge.engine.check_health()
        except EngineLostError:
            exit_process_tree()

    def __del__(self) -> None:
        if hasattr(self, "judge"):
            self.judge.close()


def exit_process_tree() -> NoReturn:
    """End this process and those that it started, at once. Nobody may be sent to a judge without an engine, and an
    engine that hangs cannot be asked to go.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)
