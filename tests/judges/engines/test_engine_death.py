"""An engine whose processes die or hang: everyone is told soon, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import processes as own_processes
import psutil
import pytest
from processes import WITHIN_S, alive, all_are_told, at_work, ended, running, until_lost
from tiny_engines import GREEDY, SEEN, generate, texts, token_ids
from tiny_models import tiny_llama, tiny_qwen_vl

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Generation, Sampling, load_engine
from flex_judge.judges.errors import EngineLostError, RenderError

pytestmark = pytest.mark.slow


def test_an_engine_in_a_process_of_its_own_sees_what_others_see_until_it_is_killed(tmp_path: Path) -> None:
    model = tiny_qwen_vl(tmp_path / "vl")
    within = load_engine(EngineConfig(str(model), "transformers", dtype="float32", max_model_len=4096))
    four = within.tokenizer.encode("4")[0]
    bound = Sampling(20, stop=("</answer>",), regex="<answer>[0-9]</answer>", logprob_token_ids=(four,))
    seen, answers = generate(within, *SEEN), generate(within, *SEEN, sampling=bound)
    within.close()

    async def scenario() -> None:
        async with running(model) as (engine, processes):
            await engine.check_health()

            async def replies(sampling: Sampling) -> list[Generation]:
                calls = (engine.generate(token_ids(engine, text), sampling, media) for text, media in SEEN)
                return list(await asyncio.gather(*calls))

            assert texts(await replies(GREEDY)) == texts(seen)
            for ours, theirs in zip(await replies(bound), answers, strict=True):
                assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
                assert [p[four] for p in ours.logprobs] == pytest.approx([p[four] for p in theirs.logprobs], abs=1e-3)
            with pytest.raises(RenderError):
                await engine.generate(token_ids(engine, "{image}"), GREEDY)
            tasks = await at_work(engine)
            processes[0].kill()
            assert "died" in await until_lost(engine)
            assert await all_are_told(tasks)
            with pytest.raises(EngineLostError):
                await engine.generate([1, 2, 3], Sampling(4))
            engine.close()
            assert ended(*processes, within_s=1)

    asyncio.run(scenario())


def test_when_the_owner_of_an_engine_is_killed_its_processes_go_too(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "llama")
    command = [sys.executable, str(own_processes.__file__), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) >= 2
        assert all(map(alive, processes))
        owner.kill()
    assert ended(*processes, within_s=WITHIN_S)
