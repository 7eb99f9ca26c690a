"""Engines that sleep and wake: the same replies and model ids after it, and typed errors while they sleep."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scripts import SETTINGS, fair_judge
from tiny_engines import GREEDY, TinyEngines, encode_request, generate, get_texts
from tiny_models import random_adapter, tiny_llama

from flex_judge.judges import Comparison, EngineConfig, FlexJudge
from flex_judge.judges.engines import Sampling, load_engine
from flex_judge.judges.engines.adapters import load_adapter
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.engines.sleep import EngineSleeper, get_sleeper
from flex_judge.judges.errors import EngineAsleepError, EngineLostError, SleepError

TEXT = "the same long prompt before and after, which fills several blocks of a prefix cache " * 3
COMPARISON = Comparison.of("Question?", "answer", rubric="correctness")
ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_the_same_replies_after_each_level(name: str, engines: TinyEngines, tmp_path: Path) -> None:
    adapters = [str(random_adapter(engines.folder("llama"), tmp_path / f"step-{i}", seed=i)) for i in range(2)]
    engine = engines("llama", name, adapter=adapters[0], max_adapter_rank=8, allow_sleep=True)
    sleeper = get_sleeper(engine)
    second = asyncio.run(load_adapter(engine, adapters[1]))
    before = [get_texts(generate(e, (TEXT, []))) for e in (engine, second)]
    assert before[0] != before[1]
    model_id = engine.model_id
    for level in (1, 2):
        asyncio.run(sleeper.sleep(level))
        asyncio.run(sleeper.sleep(3 - level))  # an engine that sleeps stays at its level
        assert sleeper.level == level
        for e in (engine, second):
            with pytest.raises(EngineAsleepError, match=f"the {name} engine sleeps; wake it"):
                generate(e, (TEXT, []))
        with pytest.raises(EngineAsleepError):
            asyncio.run(load_adapter(engine, adapters[1], "third"))
        asyncio.run(engine.check_health())
        for _ in range(2):
            asyncio.run(sleeper.wake())
        after = generate(engine, (TEXT, []))
        assert after[0].cached_tokens == 0
        assert [get_texts(after), get_texts(generate(second, (TEXT, [])))] == before
    asyncio.run(sleeper.sleep(2))
    second.close()
    asyncio.run(sleeper.wake())
    assert get_texts(generate(engine, (TEXT, []))) == before[0]
    assert engine.model_id == model_id


@pytest.mark.parametrize("name", ENGINES)
def test_files_that_are_gone_or_other_ones_leave_the_engine_asleep(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_llama(folder)
    engine = load_engine(EngineConfig(str(folder), name, dtype="float32", max_batch=4, allow_sleep=True))
    sleeper = get_sleeper(engine)
    before = get_texts(generate(engine, (TEXT, [])))
    asyncio.run(sleeper.sleep(2))
    away = folder.rename(tmp_path / "away")
    with pytest.raises(SleepError, match="the files of the model are gone; restore them"):
        asyncio.run(sleeper.wake())
    shutil.copytree(away, folder)
    (folder / "other.json").write_text("{}")
    with pytest.raises(SleepError, match="its files have changed since the judge was loaded"):
        asyncio.run(sleeper.wake())
    with pytest.raises(EngineAsleepError):
        generate(engine, (TEXT, []))
    (folder / "other.json").unlink()
    asyncio.run(sleeper.wake())
    assert get_texts(generate(engine, (TEXT, []))) == before
    engine.close()


@pytest.mark.parametrize("name", ENGINES)
def test_a_cancelled_request_does_not_keep_an_engine_awake(name: str, engines: TinyEngines) -> None:
    config = {"adapter": None, "allow_sleep": True}
    engine = engines("llama", name, **config)
    sleeper = get_sleeper(engine)

    async def cancel_and_sleep() -> None:
        request = asyncio.create_task(engine.generate(encode_request(engine, TEXT), Sampling(2000)))
        await asyncio.sleep(0.1)
        request.cancel()
        await sleeper.sleep()

    asyncio.run(cancel_and_sleep())
    asyncio.run(sleeper.wake())
    assert generate(engine, (TEXT, []), sampling=GREEDY)[0].token_ids


@pytest.mark.slow
async def test_vllm_in_processes_of_its_own_gives_the_same_replies(engines: TinyEngines, tmp_path: Path) -> None:
    adapter = str(random_adapter(engines.folder("llama"), tmp_path / "step"))
    settings = EngineConfig(str(engines.folder("llama")), "vllm", adapter=adapter, dtype="float32", max_batch=4)
    engine = load_engine(replace(settings, max_model_len=1024, own_process=True, allow_sleep=True))
    ids = encode_request(engine, TEXT)
    before = await engine.generate(ids, GREEDY)
    for level in (1, 2):
        await get_sleeper(engine).sleep(level)
        with pytest.raises(EngineAsleepError):
            await engine.generate(ids, GREEDY)
        await engine.check_health()
        await get_sleeper(engine).wake()
        assert await engine.generate(ids, GREEDY) == before
    engine.close()


async def test_judgments_in_progress_finish_and_others_are_refused() -> None:
    go = asyncio.Event()

    async def script(prompt: str, sampling: Sampling) -> str:
        await go.wait()
        return fair_judge(prompt, sampling)

    judge = FlexJudge(ScriptedEngine(script), SETTINGS)
    running = asyncio.create_task(judge.ajudge(COMPARISON))
    await asyncio.sleep(0)
    sleeping = asyncio.create_task(judge.sleep_async())
    await asyncio.sleep(0.05)
    assert not sleeping.done()
    with pytest.raises(EngineAsleepError):
        await judge.ajudge(COMPARISON)
    sleeping.cancel()  # it falls asleep nevertheless
    go.set()
    assert (await running).scores
    waking = judge.wake_async(), judge.wake_async()
    await asyncio.gather(*waking)
    assert (await judge.ajudge(COMPARISON)).scores


def test_a_ledger_and_provenance_are_the_same_after_sleep(tmp_path: Path) -> None:
    engine = RecordingEngine(ScriptedEngine(fair_judge), Ledger(str(tmp_path / "ledger.sqlite")))
    judge = FlexJudge(engine, SETTINGS)
    before = judge.judge([COMPARISON])
    judge.sleep(2)
    with pytest.raises(EngineAsleepError):
        judge.judge([COMPARISON])
    judge.wake()
    misses = engine.misses
    assert judge.judge([COMPARISON]) == before
    assert engine.misses == misses
    judge.close()


def test_engines_that_cannot_sleep_say_so(engines: TinyEngines, tmp_path: Path) -> None:
    with pytest.raises(SleepError, match="transformers engine was started without allow_sleep"):
        asyncio.run(get_sleeper(engines("llama")).sleep())
    judge = FlexJudge(ScriptedEngine(fair_judge))
    with pytest.raises(SleepError, match=r"expected 1 .* or 2 .*, got 3"):
        judge.sleep(3)
    path = str(tmp_path / "ledger.sqlite")
    RecordingEngine(ScriptedEngine(fair_judge), Ledger(path)).close()
    with pytest.raises(SleepError, match="the scripted engine cannot sleep; use vllm or"):
        get_sleeper(load_engine(EngineConfig(path, "replay")))


def test_an_engine_that_fails_keeps_its_state() -> None:
    problems = [RuntimeError("out of memory"), EngineLostError("the engine died")]

    async def change_model(_: int) -> None:
        if problems:
            raise problems.pop(0)

    engine = ScriptedEngine(fair_judge)
    engine.sleeper = EngineSleeper("scripted", change_model, change_model)
    judge = FlexJudge(engine, SETTINGS)
    with pytest.raises(SleepError, match="scripted engine could not be put to sleep: out of memory"):
        judge.sleep()
    with pytest.raises(EngineLostError):
        judge.sleep()
    assert judge.judge([COMPARISON])[0].scores
    judge.sleep()
    problems.append(RuntimeError("out of memory"))
    with pytest.raises(SleepError, match="still sleeps, because it could not be woken: out of memory"):
        judge.wake()
    with pytest.raises(EngineAsleepError):
        judge.judge([COMPARISON])
    judge.wake()
    assert judge.judge([COMPARISON])[0].scores
