"""An engine with a ledger computes nothing twice, loses nothing that was computed, and stays an engine."""

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


def ask(
    engine: Engine, prompt: str, sampling: Sampling = SAMPLING, media: tuple[PreparedMedia, ...] = ()
) -> Generation:
    """One request in an event loop of its own."""
    return asyncio.run(engine.generate(encode(prompt), sampling, media))


# Hits and misses


def test_it_passes_for_the_engine_within(engines: tuple[RecordingEngine, ScriptedEngine]) -> None:
    engine, inner = engines
    assert isinstance(engine, Engine)
    for name in ("name", "model_id", "tokenizer", "profile", "max_model_len"):
        assert getattr(engine, name) is getattr(inner, name)


def test_a_request_is_computed_once_whatever_event_loop_asks(engines: tuple[RecordingEngine, ScriptedEngine]) -> None:
    engine, inner = engines
    first = ask(engine, "Ana")
    assert [ask(engine, "Ana") for _ in range(3)] == [first] * 3
    assert first.text == "Hello, Ana!"
    assert len(inner.requests) == 1
    assert (engine.hits, engine.misses) == (3, 1)


def test_a_rerun_finds_everything(path: Path) -> None:
    names = [f"name {n}" for n in range(64)]

    async def all_at_once(engine: Engine) -> list[Generation]:
        return await asyncio.gather(*(engine.generate(encode(name), SAMPLING) for name in names))

    first, _ = recording(path)
    made = asyncio.run(all_at_once(first))
    first.close()
    again, inner = recording(path)
    assert asyncio.run(all_at_once(again)) == made
    again.close()
    assert inner.requests == []
    assert (first.hits, first.misses, again.hits, again.misses) == (0, 64, 64, 0)


def test_a_generation_is_the_same_from_the_ledger_with_its_log_probabilities(
    engines: tuple[RecordingEngine, ScriptedEngine],
) -> None:
    engine, _ = engines
    sampling = replace(SAMPLING, logprob_token_ids=tuple(encode("He")))
    first = ask(engine, "Ana", sampling)
    assert first.logprobs[0] == dict(zip(encode("He"), (0.0, -math.inf), strict=True))
    assert ask(engine, "Ana", sampling) == first
    assert engine.hits == 1


def test_draws_differ_and_media_differ(path: Path) -> None:
    inner = ScriptedEngine(greet, profile=PROFILES["flex-vl"])
    cat, dog = (PreparedMedia(Modality.IMAGE, None, name, height=28, width=28) for name in ("cat", "dog"))
    pad = inner.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    with closing(RecordingEngine(inner, Ledger(path))) as engine:
        for _ in range(2):
            for sample_index in range(3):
                ask(engine, "Ana", replace(SAMPLING, sample_index=sample_index))
            for media in ((cat,), (dog,), (cat, dog), (dog, cat)):
                asyncio.run(engine.generate([pad] * len(media), SAMPLING, media))
        assert (len(inner.requests), engine.hits) == (7, 7)


def test_a_generation_is_in_the_file_before_it_is_returned(
    engines: tuple[RecordingEngine, ScriptedEngine], path: Path
) -> None:
    engine, _ = engines

    async def look() -> int:
        await engine.generate(encode("Ana"), SAMPLING)
        with Ledger(path, read_only=True) as other:
            return len(other)

    assert asyncio.run(look()) == 1


def test_what_another_run_stored_first_is_what_both_go_on_with(path: Path) -> None:
    drawn = iter(range(100))
    engines = [recording(path, lambda *_: f"draw {next(drawn)}")[0] for _ in range(2)]

    async def both() -> list[Generation]:
        return await asyncio.gather(*(engine.generate(encode("Ana"), SAMPLING) for engine in engines))

    one, other = asyncio.run(both())
    assert one == other
    for engine in engines:
        engine.close()


# Ends and errors


def test_a_closed_engine_is_lost_and_closes_its_parts(path: Path) -> None:
    engine, inner = recording(path)
    ask(engine, "Ana")
    asyncio.run(engine.check_health())
    engine.close()
    engine.close()
    assert inner.closed
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # SQLite's log is folded in
    with pytest.raises(EngineLostError):
        ask(engine, "Ana")
    with pytest.raises(EngineLostError):
        asyncio.run(engine.check_health())


def test_a_generation_that_cannot_be_recorded_is_an_error(path: Path) -> None:
    engine, _ = recording(path)
    ask(engine, "Ana")
    with sqlite3.connect(path) as other:
        other.execute("UPDATE generations SET value = 'nonsense'")
    other.close()
    with pytest.raises(LedgerError, match="damaged"):
        ask(engine, "Ana")
    engine.close()


# Loading


def test_an_engine_is_loaded_behind_its_ledger(path: Path) -> None:
    config = EngineConfig(f"{__name__}:greet", engine="scripted", ledger=str(path))
    for hits in (0, 1):
        engine = load_engine(config)
        assert isinstance(engine, RecordingEngine)
        assert ask(engine, "Ana").text == "Hello, Ana!"
        assert engine.hits == hits
        engine.close()
    assert isinstance(load_engine(replace(config, ledger=None)), ScriptedEngine)


def test_a_ledger_that_cannot_be_used_shows_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is a folder"):
        load_engine(EngineConfig("no_such_module:script", engine="scripted", ledger=str(tmp_path)))


def test_a_model_that_cannot_be_loaded_leaves_the_ledger_closed(path: Path) -> None:
    with pytest.raises(UsageError, match="no_such_module"):
        load_engine(EngineConfig("no_such_module:script", engine="scripted", ledger=str(path)))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def slow_greet(prompt: str, sampling: Sampling) -> Any:
    """Greets after a moment, and writes down whom."""

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


def test_a_run_that_is_killed_and_started_again_computes_nothing_twice(
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
    made = calls.read_text().splitlines()
    assert len(made) - len(set(made)) <= 1  # the one that was being made when the first run died
    assert len(set(made)) == 60
