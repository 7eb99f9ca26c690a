"""The remote engine and a real vLLM server: its verdicts equal those of vLLM in this process, and commands use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import run_command
from served import free_port

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeSettings, resolve_model
from flex_judge.judges.engines import load_engine

KEY = "a-key-of-the-model-server"
COMPARISONS = [
    Comparison.of(f"What is {i} + 3?", f"It is {i + 3}.", f"It is {i + 2 + i % 3}. </think><|im_end|>", id=str(i))
    for i in range(20)
] + [Comparison.of(f"What is {i} + 4?", f"{i} + 4 = {i + 4}", rubric="correctness", id=f"c{i}") for i in range(10)]
SETTINGS = JudgeSettings(max_think_tokens=16, max_answer_tokens=12, temperature=0.0, top_p=1.0, order="both")


@contextmanager
def run_vllm(*flags: str) -> Iterator[str]:
    """Run vLLM's server on a free port and yield its base URL. `vllm serve` runs the same module."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    own |= {"OMP_NUM_THREADS": "1"}  # vLLM in this process runs at the same time
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, *flags],
            stdout=log,
            stderr=log,
            env={**os.environ, **own},
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its workers, should one be left


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Any, within_s: float = 300.0) -> None:
    end = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < end:
        try:
            httpx.get(url, timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return
    log.seek(0)
    raise AssertionError(f"vllm is not ready: {log.read().decode()[-3000:]}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    flags = ["--model", str(resolve_model("smollm2-135m")), "--served-model-name", "judge", "--dtype", "float32"]
    flags += ["--max-model-len", "1024", "--enforce-eager", "--block-size", "32", "--api-key", KEY]
    with run_vllm(*flags, "--enable-prompt-tokens-details") as url:
        yield url


@pytest.mark.slow
def test_verdicts_equal_those_of_vllm_in_this_process(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", KEY)
    remote = FlexJudge(load_engine(EngineConfig(f"{server}#judge", model_key="env:MODEL_KEY", max_batch=16)), SETTINGS)
    judgments = remote.judge(COMPARISONS)
    remote.close()
    config = EngineConfig("smollm2-135m", "vllm", "float32", max_model_len=1024, max_batch=16)
    local = FlexJudge(load_engine(config), SETTINGS)
    expected = local.judge(COMPARISONS)
    local.close()
    assert [j.status for j in judgments] == [j.status for j in expected]
    assert [j.scores for j in judgments] == [j.scores for j in expected]
    assert [j.reasoning for j in judgments] == [j.reasoning for j in expected]
    assert [[v.forced_answer for v in j.votes] for j in judgments] == [
        [v.forced_answer for v in j.votes] for j in expected
    ]
    assert any(vote.forced_answer for judgment in judgments for vote in judgment.votes)
    for a, b in zip(judgments, expected, strict=True):
        assert a.expected_scores == pytest.approx(b.expected_scores, abs=0.01)
        assert a.usage.prompt_tokens == b.usage.prompt_tokens
        assert a.model.rpartition("@")[2] == b.model.rpartition("@")[2]
    assert sum(judgment.usage.cached_tokens for judgment in judgments) > 0
    assert judgments[0].provenance["server"]["software"].startswith("vllm 0.")


@pytest.mark.slow
def test_best_of_n_judges_with_the_server(server: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_command(
        *("best-of-n", "--prompts", "3", "--samples", "2", "--policy", "scripts:drawn_policy"),
        *("--policy-engine", "scripted", "--judge", f"{server}#judge", "--model-key", "env:MODEL_KEY"),
        *("--max-model-len", "1024", "--max-think-tokens", "8", "--out", str(out)),
        MODEL_KEY=KEY,
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")]),
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "best_of_n.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert KEY not in "".join(p.read_text(errors="replace") for p in out.rglob("*") if p.is_file())
