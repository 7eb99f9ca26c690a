"""Room at an engine: only as much is asked of it at a time as it computes, so that what waits is nobody's delay."""

from __future__ import annotations

import asyncio
from collections import deque


class EngineSemaphore:
    """So many slots; first come, first served. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, wanted: int) -> int:
        """Wait for so many slots, or for all where more are wanted than there are.

        Returns:
            How many were taken, to be given back.
        """
        wanted = min(wanted, self.capacity)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._serve()  # those behind it may have waited for its sake alone
            else:
                self.give(wanted)  # it was served and cancelled at once
            raise
        return wanted

    def give(self, taken: int) -> None:
        """Give slots back."""
        self._free += taken
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= wanted
                turn.set_result(None)
