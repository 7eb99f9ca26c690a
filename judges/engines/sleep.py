"""Sleep of a running engine: its memory is free for other work, such as a training step, until it wakes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any

from flex_judge.judges.engines.base import Engine
from flex_judge.judges.errors import EngineAsleepError, JudgeError, SleepError, to_one_line
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.checkpoints import Checkpoint

LEVELS = (1, 2)
"""Levels of sleep. 1 keeps the weights in the machine's memory, 2 discards them and loads them again."""
POLL_S = 0.02
"""Seconds between two looks at the running work, which may belong to several event loops and threads."""


class EngineSleeper:
    """Sleep state of one engine, with the counts of the work that it must finish before it sleeps. Thread-safe."""

    def __init__(
        self,
        name: str,
        sleep_model: Callable[[int], Awaitable[None]],
        wake_model: Callable[[int], Awaitable[None]],
        is_allowed: bool = True,
    ) -> None:
        """Create the state of an engine that is awake.

        Args:
            name: name of the engine.
            sleep_model: frees the memory of the idle engine; takes the level.
            wake_model: undoes this; takes the level that the engine sleeps at.
            is_allowed: whether the engine was started so that it can sleep.
        """
        self.level = 0
        """Level of the sleep; 0 while the engine is awake."""
        self._name, self._is_allowed = name, is_allowed
        self._sleep_model, self._wake_model = sleep_model, wake_model
        self._falls_asleep = False
        self._num_judgments = self._num_requests = 0
        self._lock = threading.Lock()
        self._turn = threading.Lock()

    @contextmanager
    def hold_awake(self) -> Iterator[None]:
        """Keep the engine awake until the block ends, for work of several requests.

        Raises:
            EngineAsleepError: the engine sleeps, or is about to.
        """
        with self._lock:
            if self.level or self._falls_asleep:
                raise self._build_asleep_error()
            self._num_judgments += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_judgments -= 1

    @contextmanager
    def track_request(self) -> Iterator[None]:
        """Keep the engine awake for one request.

        Raises:
            EngineAsleepError: the engine sleeps.
        """
        with self._lock:
            if self.level:
                raise self._build_asleep_error()
            self._num_requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_requests -= 1

    async def sleep(self, level: int = 1) -> None:
        """Finish the running work, then free memory; new work is refused meanwhile.

        An engine that sleeps stays at its level. Completes even if the caller is cancelled.

        Args:
            level: 1 moves the weights to the machine's memory, 2 discards them.

        Raises:
            SleepError: the level is unknown, the engine was not started for it, or it fails; it is awake then.
            EngineLostError: the engine has ended.
        """
        if level not in LEVELS:
            raise SleepError(f"level: expected 1 (keep the weights in memory) or 2 (discard them), got {level!r}")
        if not self._is_allowed:
            raise SleepError(f"the {self._name} engine was started without allow_sleep, so it cannot sleep; set it")
        await _run_shielded(self._fall_asleep(level))

    async def wake(self) -> None:
        """Restore the memory of an engine that sleeps; nothing happens if it is awake.

        Raises:
            SleepError: its memory or weights cannot be restored; it still sleeps, and may be woken again.
            EngineLostError: the engine has ended.
        """
        await _run_shielded(self._wake_up())

    async def _fall_asleep(self, level: int) -> None:
        async with self._take_turn():
            if self.level:
                return
            with self._lock:  # a judgment is either counted before this, or refused
                self._falls_asleep = True
            try:
                # The requests of running judgments are still taken, so that each of them can finish.
                while self._num_judgments:
                    await asyncio.sleep(POLL_S)
                with self._lock:
                    self.level = level
                while self._num_requests:
                    await asyncio.sleep(POLL_S)
                await self._change_model(self._sleep_model, level, "could not be put to sleep")
            except BaseException:
                self.level = 0
                raise
            finally:
                self._falls_asleep = False

    async def _wake_up(self) -> None:
        async with self._take_turn():
            if self.level:
                await self._change_model(self._wake_model, self.level, "still sleeps, because it could not be woken")
                self.level = 0

    async def _change_model(self, change: Callable[[int], Awaitable[None]], level: int, problem: str) -> None:
        try:
            await change(level)
        except JudgeError:
            raise
        except Exception as e:  # whatever fails, such as memory that other work still uses
            raise SleepError(f"the {self._name} engine {problem}: {to_one_line(e)[:300]}") from e

    @asynccontextmanager
    async def _take_turn(self) -> AsyncIterator[None]:
        """Wait until no other call puts the engine to sleep or wakes it."""
        while not self._turn.acquire(blocking=False):
            await asyncio.sleep(POLL_S)
        try:
            yield
        finally:
            self._turn.release()

    def _build_asleep_error(self) -> EngineAsleepError:
        return EngineAsleepError(f"the {self._name} engine sleeps; wake it before it judges")


class SleepMethods:
    """Methods of a judge that put its engine to sleep."""

    engine: Engine

    def sleep(self, level: int = 1) -> None:
        """Free the engine's memory, from code without an event loop, see `sleep_async`."""
        asyncio.run(self.sleep_async(level))

    def wake(self) -> None:
        """Wake the engine from code without an event loop, see `wake_async`."""
        asyncio.run(self.wake_async())

    async def sleep_async(self, level: int = 1) -> None:
        """Finish the comparisons in progress, then free the engine's memory until `wake`.

        Comparisons that begin while it sleeps raise EngineAsleepError. All judges on the engine sleep with it.

        Args:
            level: 1 moves the weights to the machine's memory, 2 discards them; waking then reads their files again.

        Example:
            >>> judge = FlexJudge.from_pretrained("smollm2-135m", allow_sleep=True)
            >>> judge.sleep()
            >>> judge.wake()

        Raises:
            SleepError: the engine cannot sleep, or was started without `allow_sleep`.
        """
        await get_sleeper(self.engine).sleep(level)

    async def wake_async(self) -> None:
        """Make the engine ready to judge again, with the same answers as before its sleep.

        Raises:
            SleepError: memory is not free, or files have changed since; the engine still sleeps.
        """
        await get_sleeper(self.engine).wake()


def find_sleeper(engine: Engine) -> EngineSleeper | None:
    """Return the sleep state of an engine; None if engines of its type never sleep."""
    sleeper: EngineSleeper | None = getattr(engine, "sleeper", None)
    return sleeper


def get_sleeper(engine: Engine) -> EngineSleeper:
    """Return the sleep state of an engine.

    Raises:
        SleepError: engines of this type cannot sleep.
    """
    sleeper = find_sleeper(engine)
    if sleeper is None:
        raise SleepError(f"the {engine.name} engine cannot sleep; use vllm or transformers")
    return sleeper


def hold_awake(engine: Engine) -> AbstractContextManager[None]:
    """Keep an engine awake until the block ends, see `EngineSleeper.hold_awake`."""
    sleeper = find_sleeper(engine)
    return nullcontext() if sleeper is None else sleeper.hold_awake()


def track_request(sleeper: EngineSleeper | None) -> AbstractContextManager[None]:
    """Keep an engine awake for one request; engines without a sleeper never sleep."""
    return nullcontext() if sleeper is None else sleeper.track_request()


def check_files(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint's files are still those that it was loaded from, so that answers keep their model id.

    Raises:
        SleepError: files have changed, or are gone.
    """
    identities = {checkpoint.path: checkpoint.base_id}
    if checkpoint.adapter is not None:
        identities[checkpoint.adapter] = checkpoint.model_id
    for folder, identity in identities.items():
        if not folder.is_dir():
            raise SleepError(f"{folder}: the files of the model are gone; restore them, then wake the judge again")
        if fingerprint_folder(folder) != identity.rpartition("@")[2]:
            raise SleepError(f"{folder}: its files have changed since the judge was loaded; restart it to use them")


async def _run_shielded(work: Coroutine[Any, Any, None]) -> None:
    """Run work to its end, even if the caller is cancelled."""
    await asyncio.shield(asyncio.ensure_future(work))
