"""Retries while the service is away: shared probes end the wait of all requests once it is back."""

from __future__ import annotations

import asyncio

from flex_judge.reward.client.retry import NoResponseError, RecoveryWatch

HOURS = 10_000.0


class Outage:
    """Service that is away for a number of probes."""

    def __init__(self, probes_left: int) -> None:
        self.probes_left = probes_left
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if self.probes <= self.probes_left:
            raise NoResponseError("away")


async def test_all_waiting_requests_continue_once_the_service_is_back_with_few_probes() -> None:
    outage = Outage(3)
    watch = RecoveryWatch(outage.probe, 0.01)
    async with asyncio.timeout(5):
        await asyncio.gather(*(watch.sleep(HOURS) for _ in range(200)))
    assert outage.probes == 4


async def test_a_wait_ends_after_its_own_time_if_the_service_stays_away() -> None:
    watch = RecoveryWatch(Outage(10**9).probe, 0.01)
    async with asyncio.timeout(5):
        await asyncio.gather(watch.sleep(0.03), watch.sleep(0.06))


async def test_nobody_probes_when_nobody_waits() -> None:
    outage = Outage(10**9)
    watch = RecoveryWatch(outage.probe, 0.01)
    waiting = asyncio.create_task(watch.sleep(HOURS))
    while not outage.probes:
        await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    probes = outage.probes
    await asyncio.sleep(0.05)
    assert outage.probes == probes


async def test_a_second_outage_is_watched_anew() -> None:
    outage = Outage(1)
    watch = RecoveryWatch(outage.probe, 0.01)
    async with asyncio.timeout(5):
        await watch.sleep(HOURS)
        outage.probes_left = outage.probes + 2
        await watch.sleep(HOURS)
    assert outage.probes == outage.probes_left + 1
