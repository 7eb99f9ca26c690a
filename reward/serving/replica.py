"""One judge in one Ray actor."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from flex_judge.judges.errors import AdapterError, EngineLostError, JudgeError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.adapters import AdapterVersion
from flex_judge.reward.server.logs import LogConfig, with_fields
from flex_judge.reward.serving.logs import configure_actor_logging
from flex_judge.reward.serving.replica_adapters import ReplicaAdapters
from flex_judge.reward.serving.replica_sleep import ReplicaSleep
from flex_judge.reward.serving.work_recorder import WorkRecorder, compute_work_key, compute_work_scope

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

log = logging.getLogger(__name__)


class JudgeReplica:
    """Actor with one engine. It ends its process when the engine is lost, and Ray Serve starts another replica."""

    async def __init__(  # type: ignore[misc] # awaited by Ray Serve
        self, config: JudgeConfig, logs: LogConfig, name: str, store: Any = None, adapter_folder: str | None = None
    ) -> None:
        """Load the engine and warm it up, then load the adapter that the other replicas use now.

        While the service sleeps, nothing is loaded.

        Args:
            config: the judge.
            logs: settings of the log.
            name: name of the service.
            store: handle of the deployment `KeptWork`, which records judgments; None records nothing.
            adapter_folder: folder with adapters that may replace the judge's; None allows no replacement.
        """
        from ray import serve

        self.id = serve.get_replica_context().replica_id.unique_id
        configure_actor_logging(logs, f"replica-{self.id}", name)
        self._recorder = None if store is None else WorkRecorder(store, self.id)
        self._work_scope = compute_work_scope(config)
        self.sleep = ReplicaSleep(self.id, store if config.engine.allow_sleep else None)
        try:
            await self.sleep.wait_for_wake_order()
            await self._load_judge(config)
            self.adapters = ReplicaAdapters(self.judge, self.id, store, adapter_folder)
            await self.adapters.start()
            await self.sleep.start(self.judge)
        except Exception:
            log.exception("the replica could not start")
            raise

    async def _load_judge(self, config: JudgeConfig) -> None:
        from flex_judge.judges.judge import FlexJudge  # imported in the actor only, as the driver needs no judge

        started = time.monotonic()
        log.info("loading the judge", extra=with_fields(model=config.engine.model))
        self.judge = FlexJudge.from_config(config)
        await self.judge.warm_up()
        seconds = round(time.monotonic() - started, 1)
        log.info("ready", extra=with_fields(model=self.judge.engine.model_id, seconds=seconds))

    async def judge_one(
        self,
        comparison: Comparison,
        prefix: str,  # noqa: ARG002 - the router reads it
        request_id: str = "",
        adapter: AdapterVersion | None = None,
    ) -> Judgment:
        """Judge one comparison.

        Args:
            comparison: the comparison.
            prefix: key of its prompt, which only `flex_judge.reward.serving.routing` reads.
            request_id: id of the HTTP request, for the log; empty without one.
            adapter: adapter to judge with; None for the current one.
        """
        try:
            async with self.adapters.use_judge(adapter) as (judge, version):
                return await self._judge_with_record(judge, version, comparison, request_id)
        except AdapterError as e:
            log.error("a comparison cannot be judged: %s", e)
            return Judgment.from_failure(comparison.id, Status.FAILED, str(e))

    async def _judge_with_record(
        self, judge: FlexJudge, version: AdapterVersion, comparison: Comparison, request_id: str
    ) -> Judgment:
        extra, place = with_fields(request_id=request_id), f"request {request_id}: " if request_id else ""
        key, judgment = "", None
        if self._recorder is not None:
            key = compute_work_key(self._work_scope, comparison.digest, version.key)
            self._recorder.record_start(key)
        try:
            judgment = await judge.ajudge(comparison)
            judgment = replace(judgment, provenance={**judgment.provenance, "replica": self.id})
        except EngineLostError as e:
            log.error("%sthe engine is lost, so the replica ends: %s", place, e, extra=extra)
            exit_process_tree()
        except JudgeError:
            raise
        except Exception:
            log.exception("%sa comparison failed", place, extra=extra)
            raise
        finally:
            if self._recorder is not None:
                self._recorder.record_end(key, judgment)
        if judgment.status == Status.FAILED:
            log.error("%s%s", place, judgment.detail, extra=extra)
        return judgment

    async def check_health(self) -> None:
        """Check the engine; Ray Serve calls this every few seconds."""
        try:
            await self.judge.engine.check_health()
        except EngineLostError as e:
            log.error("the engine is lost, so the replica ends: %s", e)
            exit_process_tree()

    # Ray Serve calls the destructor when it stops a replica.
    def __del__(self) -> None:
        if hasattr(self, "adapters"):
            self.adapters.close()
            self.sleep.close()
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
