"""The recording engine computes nothing twice, loses no generation, and behaves like its inner engine."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recordings import SAMPLING, encode, greet, recording

from flex_judge.judges.engines import Engine, EngineConfig, Generation, Sampling, load_engine
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import EngineLostError, LedgerError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import PROFILES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def engines(path: Path) -> Iterator[tuple[RecordingEngine, ScriptedEngine]]:
    engine, inner = recording(path)
    yield engine, inner
    engine.close()


def generate(
    engine: Engine, prompt: str, sampling: Sampling = SAMPLING, media: tuple[PreparedMedia, ...] = ()
) -> Generation:
    """Run one request in its own event loop."""
    return asyncio.run(engine.generate(encode(prompt), sampling, media))


# Hits and misses


def test_recording_engine_has_the_identity_of_the_inner_engine(engines: tuple[RecordingEngine, ScriptedEngine]) -> None:
    engine, inner = engines
    assert isinstance(engine, Engine)
    for name in ("name", "model_id", "tokenizer", "profile", "max_model_len"):
        assert getattr(engine, name) is getattr(inner, name)


def test_request_is_computed_once_across_event_loops(engines: tuple[RecordingEngine, ScriptedEngine]) -> None:
    engine, inner = engines
    first = generate(engine, "Ana")
    assert [generate(engine, "Ana") for _ in range(3)] == [first] * 3
    assert first.text == "Hello, Ana!"
    assert len(inner.requests) == 1
    assert (engine.hits, engine.misses) == (3, 1)


def test_rerun_is_answered_from_the_ledger(path: Path) -> None:
    names = [f"name {n}" for n in range(64)]

    async def generate_all(engine: Engine) -> list[Generation]:
        return await asyncio.gather(*(engine.generate(encode(name), SAMPLING) for name in names))

    first, _ = recording(path)
    generations = asyncio.run(generate_all(first))
    first.close()
    again, inner = recording(path)
    assert asyncio.run(generate_all(again)) == generations
    again.close()
    assert inner.requests == []
    assert (first.hits, first.misses, again.hits, again.misses) == (0, 64, 64, 0)


def test_recorded_generation_includes_logprobs(
    engines: tuple[RecordingEngine, ScriptedEngine],
) -> None:
    engine, _ = engines
    sampling = replace(SAMPLING, logprob_token_ids=tuple(encode("He")))
    first = generate(engine, "Ana", sampling)
    assert first.logprobs[0] == dict(zip(encode("He"), (0.0, -math.inf), strict=True))
    assert generate(engine, "Ana", sampling) == first
    assert engine.hits == 1


def test_sample_indices_and_media_are_recorded_separately(path: Path) -> None:
    inner = ScriptedEngine(greet, profile=PROFILES["flex-vl"])
    cat, dog = (PreparedMedia(Modality.IMAGE, None, name, height=28, width=28) for name in ("cat", "dog"))
    pad = inner.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with closing(RecordingEngine(inner, Ledger(path))) as engine:
        for _ in range(2):
            for sample_index in range(3):
                generate(engine, "Ana", replace(SAMPLING, sample_index=sample_index))
            for media in ((cat,), (dog,), (cat, dog), (dog, cat)):
                asyncio.run(engine.generate([pad] * len(media), SAMPLING, media))
        assert (len(inner.requests), engine.hits) == (7, 7)


def test_generation_is_written_before_it_is_returned(
    engines: tuple[RecordingEngine, ScriptedEngine], path: Path
) -> None:
    engine, _ = engines

    async def count_after_generating() -> int:
        await engine.generate(encode("Ana"), SAMPLING)
        with Ledger(path, read_only=True) as other:
            return len(other)

    assert asyncio.run(count_after_generating()) == 1


def test_concurrent_runs_agree_on_the_first_stored_generation(path: Path) -> None:
    counter = iter(range(100))
    engines = [recording(path, lambda *_: f"sample {next(counter)}")[0] for _ in range(2)]

    async def generate_on_both() -> list[Generation]:
        return await asyncio.gather(*(engine.generate(encode("Ana"), SAMPLING) for engine in engines))

    first, second = asyncio.run(generate_on_both())
    assert first == second
    for engine in engines:
        engine.close()


# Closing and errors


def test_closed_engine_is_lost_and_closes_engine_and_ledger(path: Path) -> None:
    engine, inner = recording(path)
    generate(engine, "Ana")
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()
    assert inner.closed
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # SQLite's log is merged into the file
    with pytest.raises(EngineLostError):
        generate(engine, "Ana")
    with pytest.raises(EngineLostError):
        asyncio.run(engine.check_health())


def test_unrecordable_generation_is_an_error(path: Path) -> None:
    engine, _ = recording(path)
    generate(engine, "Ana")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE generations SET value = 'nonsense'")
    other.close()
    with pytest.raises(LedgerError, match="damaged"):
        generate(engine, "Ana")
    engine.close()


# Loading


def test_load_engine_wraps_the_engine_with_its_ledger(path: Path) -> None:
    config = EngineConfig(f"{__name__}:greet", engine="scripted", ledger=str(path))
    for hits in (0, 1):
        engine = load_engine(config)
        assert isinstance(engine, RecordingEngine)
        assert generate(engine, "Ana").text == "Hello, Ana!"
        assert engine.hits == hits
        engine.close()
    assert isinstance(load_engine(replace(config, ledger=None)), ScriptedEngine)


def test_unusable_ledger_is_reported_before_the_model_loads(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is a folder"):
        load_engine(EngineConfig("no_such_module:script", engine="scripted", ledger=str(tmp_path)))


def test_failed_model_load_closes_the_ledger(path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_module"):
        load_engine(EngineConfig("no_such_module:script", engine="scripted", ledger=str(path)))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def slow_greet(prompt: str, sampling: Sampling) -> Any:
    """Reply after a moment, and log the prompt to a file."""

    async def reply() -> str:
        await asyncio.sleep(0.01)
        with open(os.environ["FLEX_JUDGE_TEST_CALLS"], "a") as file:
            file.write(f"{prompt}\n")
        return f"Hello, {prompt}!"

    return reply()


RUN = """
import asyncio, sys
from flex_judge.judges.engines import EngineConfig, Sampling, load_engine
config = EngineConfig("tests.judges.engines.test_recording:slow_greet", engine="scripted", ledger=sys.argv[1])
engine = load_engine(config)
async def run():
    for n in range(60):
        ids = engine.tokenizer.encode(f"name {n}", add_special_tokens=False)
        print((await engine.generate(ids, Sampling(1000))).text, flush=True)
asyncio.run(run())
print(engine.hits, engine.misses)
engine.close()
"""


def test_killed_and_restarted_run_computes_nothing_twice(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("FLEX_JUDGE_TEST_CALLS", str(calls))
    command = [sys.executable, "-c", RUN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        confirmed = [first.stdout.readline() for _ in range(20)]
        first.send_signal(signal.SIGKILL)
        confirmed += first.stdout.readlines()
    assert confirmed[:20] == [f"Hello, name {n}!\n" for n in range(20)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert out[:-1] == [f"Hello, name {n}!" for n in range(60)]
    hits, misses = map(int, out[-1].split())
    assert hits >= len(confirmed)
    assert hits + misses == 60
    computed = calls.read_text().splitlines()
    assert len(computed) - len(set(computed)) <= 1  # the request that was in progress when the first run was killed
    assert len(set(computed)) == 60
