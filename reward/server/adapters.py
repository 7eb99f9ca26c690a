"""The judge's LoRA adapter, which can be replaced while the service runs.

Every request is judged with the adapter that is current when it arrives, so its judgments agree. A replacement takes
effect for all later requests at one moment: when every replica has loaded the new adapter. Free of any web framework
and of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from flex_judge.judges.errors import AdapterError
from flex_judge.reward.server.errors import FieldError, RetryLaterError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Pattern of an adapter's name."""
RETRY_S = 5.0
"""Retry-After while judgments with an earlier adapter are in progress."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdapterVersion:
    """Adapter of the judge during a part of a service's life."""

    number: int = 0
    """Number of the version; 0 is the adapter that the service was started with, or none."""
    name: str = ""
    path: str = ""
    """Folder, as the replicas see it."""
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time."""

    @property
    def key(self) -> str:
        """Name and fingerprint; empty for the adapter of the start."""
        return f"{self.name}@{self.fingerprint}" if self.number else ""


START = AdapterVersion(created=0)
"""Version of a service whose adapter was never replaced."""
_pinned: ContextVar[AdapterVersion | None] = ContextVar("pinned_adapter", default=None)


class AdapterLoader(Protocol):
    """Connection to the replicas, which load and free adapters."""

    async def read_current(self) -> AdapterVersion:
        """Return the current version, also if an earlier gateway set it, and cancel what that one left unfinished."""
        ...

    async def load(self, name: str, path: str, current: AdapterVersion) -> AdapterVersion:
        """Have every replica load an adapter next to the current one, and wait for all of them.

        Raises:
            AdapterError: a replica could not load it; no replica keeps it.
            RetryLaterError: no replica is there.
        """
        ...

    async def commit(self, version: AdapterVersion) -> None:
        """Make a loaded version the one that replicas start with from now on."""
        ...

    async def keep_only(self, numbers: Collection[int]) -> None:
        """Have the replicas free all other versions once their judgments are done."""
        ...


class AdapterSwitch:
    """Current adapter of a service, and its replacement. Belongs to one event loop."""

    def __init__(
        self,
        model: str = "",
        base_model: str = "",
        loader: AdapterLoader | None = None,
        folder: str | None = None,
        max_wait_s: float = 600.0,
    ) -> None:
        """Create a switch.

        Args:
            model: public name of the model with the adapter of the start.
            base_model: public name of the model without an adapter.
            loader: connection to the replicas; None allows no replacement.
            folder: folder that must contain all adapters.
            max_wait_s: maximum time to wait for judgments with the adapter before the present one.
        """
        self._model, self._base_model = model, base_model
        self._loader, self._folder = loader, folder
        self._max_wait_s = max_wait_s
        self._current: AdapterVersion | None = START if loader is None else None
        self._holders: Counter[int] = Counter()
        self._released = asyncio.Event()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self.check_ready: Callable[[], None] = lambda: None
        """Raises an error while the replicas cannot load an adapter."""
        self.listeners: list[Callable[[str], None]] = []
        """Functions that receive the public name of the model when it changes."""

    @property
    def allows_updates(self) -> bool:
        """Whether the adapter can be replaced."""
        return self._loader is not None

    @property
    def model(self) -> str:
        """Public name of the model with its current adapter; empty if it is unknown."""
        return self.name_model(self._current or START)

    def name_model(self, version: AdapterVersion) -> str:
        """Return the public name of the model with some adapter."""
        return f"{self._base_model}+{version.key}" if version.number else self._model

    async def get_current(self) -> AdapterVersion:
        """Return the current version; after a restart of the gateway, ask for it first.

        Raises:
            RetryLaterError: the current version cannot be found out now.
        """
        if self._current is None:
            async with self._lock:
                if self._current is None and self._loader is not None:
                    self._set_current(await self._loader.read_current())
        assert self._current is not None
        return self._current

    async def pin_current(self) -> AdapterVersion:
        """Pin the caller's request to the current version and return it, see `get_current` for the errors."""
        version = await self.get_current()
        _pinned.set(version)
        return version

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the version of the caller's request loaded until the block ends."""
        number = self.choose().number
        self._holders[number] += 1
        try:
            yield
        finally:
            self._holders[number] -= 1
            if not self._holders[number]:
                del self._holders[number]
                self._released.set()

    def choose(self) -> AdapterVersion:
        """Return the version for a judgment: the pinned one of the request while it is held, else the current one."""
        pinned = _pinned.get()
        if pinned is not None and self._holders[pinned.number] > 0:
            return pinned
        return self._current or START

    async def replace(self, name: str, path: str) -> AdapterVersion:
        """Replace the adapter for all later requests. Completes even if the caller is cancelled.

        Args:
            name: name of the new adapter.
            path: its folder, absolute or relative to the allowed folder.

        Returns:
            The new version; the current one if it has the same name and content.

        Raises:
            AdapterError: the service allows no replacement, or a replica cannot load the adapter. Nothing changes.
            FieldError: the name or the path is invalid.
            RetryLaterError: judgments with an earlier adapter take too long, no replica is there, or the judge sleeps.
        """
        if self._loader is None or self._folder is None:
            raise AdapterError(
                f"adapter {name[:64]!r}: this service takes no other adapters; start it with "
                "--allow-adapter-updates FOLDER"
            )
        if not NAME.fullmatch(name):
            problem = f"expected 1 to 64 letters, digits, dots, hyphens and underscores, got {name[:80]!r}"
            raise FieldError.at_field("name", problem)
        path = check_adapter_path(path, self._folder)
        task = asyncio.create_task(self._replace(self._loader, name, path))
        self._tasks.add(task)
        task.add_done_callback(self._discard_task)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def pause_updates(self) -> AsyncIterator[None]:
        """Keep the replicas from loading and freeing adapters until the block ends."""
        async with self._lock:
            yield

    async def _replace(self, loader: AdapterLoader, name: str, path: str) -> AdapterVersion:
        current = await self.get_current()
        async with self._lock:
            self.check_ready()
            current = self._current or current
            # At most two adapters are in use at a time, which bounds the memory of the engines.
            await self._wait_for_release(current.number)
            version = await loader.load(name, path, current)
            if version.key == current.key:
                await loader.keep_only([current.number])
                return current
            await loader.commit(version)
            self._set_current(version)
            log.info("the adapter is replaced: %s", self.model)
        task = asyncio.create_task(self._free_others(loader, version))
        self._tasks.add(task)
        task.add_done_callback(self._discard_task)
        return version

    async def _free_others(self, loader: AdapterLoader, version: AdapterVersion) -> None:
        """Free all other versions once no request needs them."""
        async with self._lock:
            if self._current == version:
                await self._wait_for_release(version.number)
                await loader.keep_only([version.number])

    async def _wait_for_release(self, number: int) -> None:
        """Wait until only one version is in use."""
        try:
            async with asyncio.timeout(self._max_wait_s):
                while self._holders.keys() - {number}:
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError as e:
            raise RetryLaterError("judgments with an earlier adapter are still in progress", RETRY_S) from e

    def _set_current(self, version: AdapterVersion) -> None:
        self._current = version
        for listen in self.listeners:
            listen(self.model)

    def _discard_task(self, task: asyncio.Task[AdapterVersion] | asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:  # also marks it as retrieved
            log.warning("an adapter was not replaced or not freed: %s", task.exception())


def check_adapter_path(path: str, folder: str) -> str:
    """Return the absolute path of an adapter, without reading any file.

    Args:
        path: path in a request, absolute or relative to `folder`.
        folder: folder that the operator allows.

    Raises:
        FieldError: the path leads out of the folder.
    """
    if "\0" in path or not path.strip():
        raise FieldError.at_field("path", "expected the folder of an adapter")
    absolute = posixpath.normpath(posixpath.join(folder, path))
    if not absolute.startswith(posixpath.normpath(folder).rstrip("/") + "/"):
        raise FieldError.at_field("path", "is outside of the folder of adapters that the operator allows")
    return absolute
