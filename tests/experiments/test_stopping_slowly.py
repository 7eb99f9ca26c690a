"""Stops of commands that start Ray, load a model or train: accepted requests, saved work, checkpoints, no noise."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples import curated
from processes import run_command
from scripts import SETTINGS, fair_judge
from served import free_port, served
from sft_command import HERE, SEEN, tensors
from stopping import StoppableCommand, start_command
from tiny_models import tiny_llama

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.io.jsonl import write_rows
from flex_judge.judges.models.profiles import PROFILES

pytestmark = pytest.mark.slow
INT, TERM = signal.SIGINT, signal.SIGTERM
JUDGE = ("--engine", "scripted", "--model", "scripts:steady_judge")


def run_to_end(*command: str, **environment: str) -> None:
    """Run a command that must succeed."""
    process = run_command(*command, **environment)
    assert process.returncode == 0, process.stderr[-3000:]


def wait_until_ready(running: StoppableCommand, url: str) -> None:
    """Wait until a service answers that it is ready."""

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    running.wait_until(is_ready)


@pytest.mark.parametrize("pipe", ["dead", "read"])
def test_service_answers_accepted_requests_and_ends_at_once_at_a_second_signal(pipe: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    answers: list[Any] = []

    def judge_comparisons(number: int) -> None:
        comparison = {"id": str(number), "prompt": f"{number}?", "responses": ["Yes.", "No."]}
        try:
            answers.append(httpx.post(f"{url}/v1/judge", json={"comparisons": [comparison]}, timeout=60).json())
        except httpx.HTTPError as e:
            answers.append(e)

    command = ("serve", *JUDGE, "--port", str(port))
    with start_command(command, tmp_path, pipe, FLEX_JUDGE_TEST_THINK="4") as running:
        wait_until_ready(running, url)
        clients = [threading.Thread(target=judge_comparisons, args=(i,)) for i in range(3)]
        for client in clients:
            client.start()
        time.sleep(2)  # all of them are accepted by then
        running.send(INT)
        if pipe == "read":
            time.sleep(1)
            assert not answers
            running.send(TERM)
            assert running.wait() == 130
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"{url}/healthz", timeout=5)
        else:
            assert running.wait() == 0
        for client in clients:
            client.join()
    if pipe == "dead":
        assert [answer["judgments"][0]["status"] for answer in answers] == ["ok"] * 3
    else:
        # The service is ready a moment before the command knows it, and then says that it is starting.
        assert re.search("(draining, .* accepted ones|starting .* accepted are) answered", running.err)


def test_run_on_ray_stops_without_noise_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    write_rows(prompts, [{"prompt": f"What is {i} + 3?"} for i in range(120)])
    command = ["preferences", str(prompts), "--rubric", "correctness", "--out", "run", "--samples", "4"]
    command += ["--engine", "scripted", "--judge", "scripts:slow_judge", "--policy", "scripts:drawn_policy"]
    with start_command(command, tmp_path / "output") as running:
        running.wait_until(lambda: any(Path("run/shards").glob("report-*.json")))
        running.send(INT)
        assert running.wait() == 130
    assert "stopping (SIGINT)" in running.err
    finished = {path: path.read_bytes() for path in Path("run/shards").iterdir() if path.suffix != ".partial"}
    assert not Path("run/summary.json").exists()
    run_to_end(*command)
    assert {path: path.read_bytes() for path in finished} == finished
    assert json.loads(Path("run/summary.json").read_text())["done"] == 120


@pytest.mark.parametrize("delay_s", [0.0, 3.0])
def test_stop_within_a_step_of_an_engine_ends_without_an_abort(
    delay_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"r{i}", "prompt": f"What is {i}?", "responses": ["It is.", "No."]} for i in range(40)]
    write_rows(Path("rows.jsonl"), rows)
    model = tiny_llama(tmp_path / "model")
    command = ["judge", "rows.jsonl", "--model", str(model), "--engine", "transformers", "--out", "out.jsonl"]
    command += ["--max-think-tokens", "100"]
    with start_command(command, tmp_path / "output") as running:
        running.wait_until(Path("out.jsonl.log").exists)  # while the model loads, or while it thinks
        time.sleep(delay_s)
        running.send(INT)
        assert running.wait() == 130
    assert running.err.count("stopping (SIGINT)") == 1


TWO_RANKS = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: "no"
num_machines: 1
num_processes: 2
main_process_port: 0
"""


def read_losses(out: Path) -> list[float]:
    log = json.loads((out / "training.json").read_text())["log"]
    return [entry["loss"] for entry in log if "loss" in entry]


STEPS = ("--logging_steps", "1", "--max_steps", "40", "--save_strategy", "steps", "--save_steps", "25")


def check_stopped_training(command: Sequence[str], folder: Path) -> None:
    """Stop a training of 40 steps after its checkpoint of step 25, and compare the resumed one."""
    out, uninterrupted = folder / "stopped", folder / "uninterrupted"
    with start_command([*command, "--output_dir", str(out)], folder / "output") as running:
        running.wait_until((out / "checkpoint-25" / "trainer_state.json").exists)
        running.send(TERM)
        assert running.wait() == 130
    assert running.err.count("stopping (SIGTERM)") == 1
    steps = sorted(int(checkpoint.name.rpartition("-")[2]) for checkpoint in out.glob("checkpoint-*"))
    assert len(steps) == 2
    assert 25 < steps[-1] < 40
    run_to_end(*command, "--output_dir", str(out))
    run_to_end(*command, "--output_dir", str(uninterrupted))
    assert read_losses(out) == read_losses(uninterrupted)
    weights, expected = tensors(out), tensors(uninterrupted)
    assert weights.keys() == expected.keys()
    assert all(bool((weights[name] == expected[name]).all()) for name in weights)


def test_stopped_training_of_a_judge_on_two_ranks_resumes_exactly(tmp_path: Path) -> None:
    base, data = tiny_llama(tmp_path / "base"), curated(tmp_path / "data")
    config = tmp_path / "accelerate.yaml"
    config.write_text(TWO_RANKS)
    flags = [*HERE, *SEEN, *STEPS, "--data_seed", "1", "--eval_strategy", "no", "--accelerate_config", str(config)]
    check_stopped_training(["sft", str(data), "--model_name_or_path", str(base), *flags], tmp_path)


def build_policy_flags(folder: Path) -> list[str]:
    flags = ["--model_name_or_path", str(tiny_llama(folder / "base")), "--held-out-prompts", "0", *STEPS]
    return [*flags, "--use_cpu", "--bf16", "False", "--dtype", "float32", "--per_device_train_batch_size", "2"]


def test_stopped_dpo_resumes_exactly(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    pair = {"chosen": "It is right.", "rejected": "Who knows."}
    write_rows(rows, [{"prompt": f"What is {n} + 1?", **pair} for n in range(8)])
    check_stopped_training(["dpo", str(rows), *build_policy_flags(tmp_path)], tmp_path)


def test_stopped_grpo_resumes_exactly(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    # It stops in the second epoch, whose order is not that of the first.
    write_rows(rows, [{"prompt": f"What is {n} + 1?"} for n in range(16)])
    with served(FlexJudge(ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"]), SETTINGS)) as service:
        flags = ["--judge-url", service.url, "--num_generations", "2", "--max_completion_length", "4"]
        check_stopped_training(["grpo", str(rows), *build_policy_flags(tmp_path), *flags], tmp_path)
