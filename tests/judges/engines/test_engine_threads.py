"""Engines respect the `threads` setting: two engines that each use all cores slow each other down."""

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

def measure_thread_times():
    # CPU time of each thread so far, in hundredths of a second.
    times = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        times[thread] = int(fields[11]) + int(fields[12])
    return times

model, engine, threads = sys.argv[1:]
loaded = load_engine(EngineConfig(model, engine, "float32", max_model_len=1024, threads=int(threads)))
ids = loaded.tokenizer("What is two and two? " * 12, add_special_tokens=False)["input_ids"]
start_times = measure_thread_times()

async def generate_all():
    await asyncio.gather(*(loaded.generate(ids[k:], Sampling(200, 1.0, seed=k)) for k in range(16)))

asyncio.run(generate_all())
spent = sorted((used - start_times.get(thread, 0) for thread, used in measure_thread_times().items()), reverse=True)
print(json.dumps(spent))
loaded.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_threads_setting_limits_computing_threads(engine: str) -> None:
    command = [sys.executable, "-c", SCRIPT, "smollm2-135m", engine, "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, *_ = json.loads(done.stdout.splitlines()[-1])
    assert second < first / 4
