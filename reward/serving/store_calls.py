"""Calls to the deployment `KeptWork` from other processes of a service, and shared parts of its boards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, ClassVar

from flex_judge.reward.server.errors import RetryLaterError

WATCH_S = 2.0
"""Seconds that a board holds a question for news."""
SILENT_S = 10.0
"""Seconds without a question after which a replica counts as gone."""
CALL_S = 15.0
"""Time limit of one call to a board, which may have to be found first."""
POLL_S = 0.1
"""Seconds between two questions whether all replicas have done what the board says."""
LOAD_S = 300.0
"""Maximum time for all replicas to load an adapter, to sleep or to wake."""
log = logging.getLogger(__name__)


async def call_store(method: Any, *args: Any) -> Any:
    """Call a method of the store through its handle."""
    # In a new context, as for the calls of `ReplicaSender`.
    response = Context().run(method.remote, *args)
    return await response


class News:
    """Signal of a board to everyone who waits for a change. Belongs to one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next announcement, or WATCH_S."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), WATCH_S)


class BoardClient:
    """Connection of a gateway to a board, which the replicas follow."""

    board: ClassVar[str]
    """Name of the board in the log."""
    unknown: ClassVar[str]
    """What cannot be determined while the board is away."""

    def __init__(self, store: Any, count_replicas: Callable[[], Awaitable[int]]) -> None:
        """Create the connection.

        Args:
            store: handle of the deployment with the board.
            count_replicas: counts the running replicas of the service.
        """
        self._store, self._count_replicas = store, count_replicas

    async def _ask(self, method: Any, *args: Any) -> Any:
        """Call the board.

        Raises:
            RetryLaterError: the board is away.
        """
        try:
            return await asyncio.wait_for(call_store(method, *args), CALL_S)
        except Exception as e:
            log.warning("the board of %s is not available: %r", self.board, e)
            raise RetryLaterError(f"{self.unknown} cannot be determined now; try again later") from e
