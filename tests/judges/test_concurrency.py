"""EngineSemaphore: first come, first served, and no slot is lost if a waiter is cancelled."""

from __future__ import annotations

import asyncio

from flex_judge.judges.concurrency import EngineSemaphore


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_acquire_is_first_come_first_served() -> None:
    semaphore, order = EngineSemaphore(4), []

    async def use_slots(name: str, slots: int) -> None:
        acquired = await semaphore.acquire(slots)
        order.append(name)
        await _settle()
        semaphore.release(acquired)

    await asyncio.gather(
        use_slots("a", 3), use_slots("b", 3), use_slots("c", 1), use_slots("all", 99), use_slots("d", 1)
    )
    assert order == ["a", "b", "c", "all", "d"]
    assert await semaphore.acquire(4) == 4


async def test_cancelled_waiter_does_not_block_the_queue() -> None:
    semaphore = EngineSemaphore(2)
    assert await semaphore.acquire(1) == 1
    large = asyncio.create_task(semaphore.acquire(2))
    await _settle()
    small = asyncio.create_task(semaphore.acquire(1))
    await _settle()
    assert not small.done()
    large.cancel()
    await _settle()
    assert small.done()
    semaphore.release(2)
    assert await semaphore.acquire(2) == 2


async def test_waiter_cancelled_after_being_served_releases_its_slots() -> None:
    semaphore = EngineSemaphore(1)
    await semaphore.acquire(1)
    late = asyncio.create_task(semaphore.acquire(1))
    await _settle()
    semaphore.release(1)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert await semaphore.acquire(1) == 1
