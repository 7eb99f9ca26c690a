"""Engines compute with as many threads as they are told to: two that take all cores each get in each other's way."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, json, os, sys, time
import torch  # before the engine, as in Ray's workers: OpenMP reads its variables now
from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Sampling, load_engine

def times():
    # What each thread has computed so far, in hundredths of a second.
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        found[thread] = int(fields[11]) + int(fields[12])
    return found

model, engine, threads = sys.argv[1:]
loaded = load_engine(EngineConfig(model, engine, "float32", max_model_len=1024, threads=int(threads)))
ids = loaded.tokenizer("What is two and two? " * 12, add_special_tokens=False)["input_ids"]
begun = times()

async def ask():
    await asyncio.gather(*(loaded.generate(ids[k:], Sampling(200, 1.0, seed=k)) for k in range(16)))

asyncio.run(ask())
spent = sorted((used - begun.get(thread, 0) for thread, used in times().items()), reverse=True)
print(json.dumps(spent))
loaded.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_one_thread_computes_where_one_is_asked_for(engine: str) -> None:
    command = [sys.executable, "-c", SCRIPT, "smollm2-135m", engine, "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, *_ = json.loads(done.stdout.splitlines()[-1])
    assert second < first / 4
