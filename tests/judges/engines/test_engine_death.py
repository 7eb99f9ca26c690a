"""Engines whose processes die: pending requests fail soon, and no process stays behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import processes as own_processes
import psutil
import pytest
from processes import WITHIN_S, check_all_lost, is_alive, run_engine, start_requests, wait_for_end, wait_until_lost
from tiny_engines import GREEDY, VISUAL_REQUESTS, encode_request, generate, get_texts
from tiny_models import tiny_llama, tiny_qwen_vl

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Generation, Sampling, load_engine
from flex_judge.judges.errors import EngineLostError, RenderError

pytestmark = pytest.mark.slow


def test_separate_process_engine_matches_in_process_engine_and_is_lost_when_killed(tmp_path: Path) -> None:
    model = tiny_qwen_vl(tmp_path / "vl")
    in_process = load_engine(EngineConfig(str(model), "transformers", dtype="float32", max_model_len=4096))
    four = in_process.tokenizer.encode("4")[0]
    grammar = Sampling(20, stop=("</answer>",), regex="<answer>[0-9]</answer>", logprob_token_ids=(four,))
    greedy = generate(in_process, *VISUAL_REQUESTS)
    constrained = generate(in_process, *VISUAL_REQUESTS, sampling=grammar)
    in_process.close()

    async def scenario() -> None:
        async with run_engine(model) as (engine, processes):
            await engine.check_health()

            async def replies(sampling: Sampling) -> list[Generation]:
                calls = (
                    engine.generate(encode_request(engine, text), sampling, media) for text, media in VISUAL_REQUESTS
                )
                return list(await asyncio.gather(*calls))

            assert get_texts(await replies(GREEDY)) == get_texts(greedy)
            for reply, expected in zip(await replies(grammar), constrained, strict=True):
                assert (reply.text, reply.finish_reason) == (expected.text, expected.finish_reason)
                assert [p[four] for p in reply.logprobs] == pytest.approx(
                    [p[four] for p in expected.logprobs], abs=1e-3
                )
            with pytest.raises(RenderError):
                await engine.generate(encode_request(engine, "{image}"), GREEDY)
            tasks = await start_requests(engine)
            processes[0].kill()
            assert "died" in await wait_until_lost(engine)
            assert await check_all_lost(tasks)
            with pytest.raises(EngineLostError):
                await engine.generate([1, 2, 3], Sampling(4))
            engine.close()
            assert wait_for_end(*processes, within_s=1)

    asyncio.run(scenario())


def test_killing_the_owner_ends_the_engine_processes(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "llama")
    command = [sys.executable, str(own_processes.__file__), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) >= 2
        assert all(map(is_alive, processes))
        owner.kill()
    assert wait_for_end(*processes, within_s=WITHIN_S)
