"""Cancelled requests of the transformers engine stop generating; the other requests of their batch do not change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.hf.engine import HFEngine

LONG = Sampling(1500, regex="[a-z]{1500}")
LONG_WITHOUT_GRAMMAR = Sampling(1500, temperature=1.0, seed=3)


class CountingEngine:
    """Tiny engine that counts the forward passes of its model."""

    def __init__(self, folder: Path) -> None:
        self.passes = 0
        config = EngineConfig(str(tiny_llama(folder)), "transformers", "float32", max_model_len=2048, threads=1)
        self.engine = HFEngine(config)
        self.engine.model.register_forward_hook(self._count_pass)

    def _count_pass(self, *_: Any) -> None:
        self.passes += 1

    def start(self, text: str, sampling: Sampling) -> asyncio.Task[Generation]:
        prompt = self.engine.tokenizer.encode(text, add_special_tokens=False)
        return asyncio.create_task(self.engine.generate(prompt, sampling))

    async def wait_for_passes(self, count: int) -> None:
        async with asyncio.timeout(60):
            while self.passes < count:
                await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingEngine]:
    counting = CountingEngine(tmp_path_factory.mktemp("model"))
    yield counting
    counting.engine.close()


async def test_a_batch_ends_when_all_its_requests_are_cancelled(counting: CountingEngine) -> None:
    counting.passes = 0
    tasks = [counting.start(f"question {i}", LONG) for i in range(3)]
    await counting.wait_for_passes(10)
    for task in tasks:
        task.cancel()
    await counting.start("another", Sampling(5))
    assert counting.passes < 100


@pytest.mark.parametrize("sampling", [LONG, LONG_WITHOUT_GRAMMAR], ids=["grammar", "no grammar"])
async def test_other_requests_of_the_batch_are_not_affected(counting: CountingEngine, sampling: Sampling) -> None:
    alone = await counting.start("question 0", sampling)
    counting.passes = 0
    tasks = [counting.start(f"question {i}", sampling) for i in range(3)]
    await counting.wait_for_passes(10)
    tasks[2].cancel()
    assert (await tasks[0]).text == alone.text
    assert (await tasks[1]).text
    assert (await counting.start("question 0", sampling)).text == alone.text
