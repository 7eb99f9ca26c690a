"""A request that fails unexpectedly costs itself, not the other requests of its batch nor the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_llama

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeSettings, Status
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.hf.engine import HFEngine
from flex_judge.judges.errors import EngineLostError, GenerationError, UsageError

POISON = "poison"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HFEngine]:
    """Load an engine whose model fails for every batch with the poison in it."""
    config = EngineConfig(str(tiny_llama(tmp_path / "llama")), "transformers", dtype="float32", max_model_len=2048)
    engine = HFEngine(config)
    generate = engine.model.generate

    def fail_for_poison(**inputs: Any) -> Any:
        if any(POISON in text for text in engine.tokenizer.batch_decode(inputs["input_ids"])):
            raise ZeroDivisionError("a bug")
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", fail_for_poison)
    yield engine
    engine.close()


def generate(engine: HFEngine, *texts: str) -> list[Any]:
    async def run() -> list[Any]:
        calls = (engine.generate(engine.tokenizer.encode(text), Sampling(4)) for text in texts)
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


def test_the_others_of_the_batch_are_computed(engine: HFEngine) -> None:
    calm = generate(engine, "one", "two", "three")
    results = generate(engine, "one", "two", POISON, "three")
    assert isinstance(results.pop(2), GenerationError)
    assert [r.text for r in results] == [r.text for r in calm]
    assert [r.text for r in generate(engine, "one", "two", "three")] == [r.text for r in calm]


def test_the_comparison_has_the_status_failed(engine: HFEngine) -> None:
    judge = FlexJudge(engine, JudgeSettings(max_think_tokens=4, temperature=0.0))
    pair = [Comparison.of("Question?", answer, id=answer) for answer in ("good", POISON, "better")]
    statuses = [judgment.status for judgment in judge.judge(pair)]
    assert statuses[1] == Status.FAILED
    assert Status.FAILED not in (statuses[0], statuses[2])
    assert [j.status for j in judge.judge(pair[:1])] == statuses[:1]


def test_requests_that_fail_in_a_row_do_not_end_the_engine(engine: HFEngine) -> None:
    results = generate(engine, *[f"{POISON} {i}" for i in range(5)])
    assert [type(result) for result in results] == [GenerationError] * 5
    assert isinstance(generate(engine, "one")[0], Generation)


@pytest.mark.parametrize("error", [UsageError("too long"), MemoryError(), RuntimeError("CUDA out of memory")], ids=repr)
def test_errors_of_input_do_not_end_the_engine(
    engine: HFEngine, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = engine.model.generate

    def fail_for_long_prompts(**inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 20:
            raise error
        return compute(**inputs)

    monkeypatch.setattr(engine.model, "generate", fail_for_long_prompts)
    results = generate(engine, "one", *["long " * 50] * 4)
    assert isinstance(results[0], Generation)
    expected = UsageError if isinstance(error, UsageError) else GenerationError
    assert [type(result) for result in results[1:]] == [expected] * 4
    assert isinstance(generate(engine, "two")[0], Generation)


def test_an_engine_that_fails_for_every_request_is_lost(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> Any:
        raise RuntimeError("the GPU fell off the bus")

    monkeypatch.setattr(engine.model, "generate", fail)
    results = generate(engine, "one", "two")
    assert [type(result) for result in [*results, *generate(engine, "three")]] == [EngineLostError] * 3
