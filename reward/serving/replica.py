"""One judge in one Ray actor."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NoReturn

from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison
from flex_judge.reward.serving.kept_work import WorkRecorder, compute_work_key, compute_work_scope


class JudgeReplica:
    """Actor with one engine. It ends its process when the engine is lost, and Ray Serve starts another replica."""

    async def __init__(self, config: JudgeConfig, store: Any = None) -> None:  # type: ignore[misc] # awaited by Ray Serve
        """Load the engine and warm it up.

        Args:
            config: configuration of the judge.
            store: handle of the deployment `KeptWork`, to which judgments are recorded; None records nothing.
        """
        from ray import serve

        from flex_judge.judges.judge import FlexJudge  # imported in the actor only, as the driver needs no judge

        self.id = serve.get_replica_context().replica_id.unique_id
        self.judge = FlexJudge.from_config(config)
        await self.judge.warm_up()
        self._recorder = None if store is None else WorkRecorder(store, self.id)
        self._work_scope = compute_work_scope(config)

    async def judge_one(self, comparison: Comparison, prefix: str) -> Judgment:  # noqa: ARG002 - the router reads it
        """Judge one comparison.

        Args:
            comparison: the comparison.
            prefix: key of its prompt, which only `flex_judge.reward.serving.routing` reads.
        """
        key, judgment = compute_work_key(self._work_scope, comparison.digest), None
        if self._recorder is not None:
            self._recorder.record_start(key)
        try:
            judgment = await self.judge.ajudge(comparison)
            judgment = replace(judgment, provenance={**judgment.provenance, "replica": self.id})
        except EngineLostError:
            exit_process_tree()
        finally:
            if self._recorder is not None:
                self._recorder.record_end(key, judgment)
        return judgment

    async def check_health(self) -> None:
        """Check the engine; Ray Serve calls this every few seconds."""
        try:
            await self.judge.engine.check_health()
        except EngineLostError:
            exit_process_tree()

    # Ray Serve calls the destructor when it stops a replica.
    def __del__(self) -> None:
        if hasattr(self, "judge"):
            self.judge.close()


def exit_process_tree() -> NoReturn:
    """Kill this process and its descendants at once.

    A clean shutdown is no option: no further request may reach a judge without an engine, and an engine that hangs
    would block it.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)
