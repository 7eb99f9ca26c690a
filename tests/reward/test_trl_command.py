"""TRL's own command with `flex_judge.reward.trl.judge_reward`, on two ranks and through an outage of the judge."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from scripts import SETTINGS, fair_judge
from served import ServedJudge, served
from tiny_models import tiny_qwen_vl

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.trl import JudgeReward

pytestmark = pytest.mark.slow
RUN_S = 500.0  # takes a minute on an idle machine
SAVED, EXIT_S = "Model saved to", 30.0
OUTAGE_S, POLL_S = 3.0, 0.01
STEPS = 3
TWO_RANKS = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: "no"
num_machines: 1
num_processes: 2
main_process_port: 0
"""
SETTINGS_OF_GROUPS = {"method": "round_robin", "reward": "win_rate"}
FLAGS = {
    "reward_funcs": "flex_judge.reward.trl.judge_reward",
    "num_generations": "4",
    "max_completion_length": "8",
    "max_steps": str(STEPS),
    "logging_steps": "1",
    "save_steps": str(STEPS),
    "use_cpu": "True",
    "bf16": "False",
    "dtype": "float32",
    "gradient_checkpointing": "False",
    "log_completions": "True",
    "report_to": "none",
    "disable_tqdm": "True",
}


def start_training(folder: Path, variables: dict[str, str], **flags: str) -> subprocess.Popen[str]:
    """Start `trl grpo` in a folder; its output goes to the file `output`."""
    command = [str(Path(sys.executable).parent / "trl"), "grpo", "--output_dir", str(folder / "out")]
    command += [text for name, value in (FLAGS | flags).items() for text in (f"--{name}", value)]
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, text=True, start_new_session=True
        )


def wait_for_end(process: subprocess.Popen[str], folder: Path) -> tuple[int, str]:
    """Wait for a training, and return its exit status and output.

    `trl grpo` ends without closing its process group. If a thread of gloo still frees a tensor then, torch 2.13 waits
    for that thread and the thread for Python's lock, forever. All results are saved by then, so this counts as an end.
    """
    started, saved_at = time.monotonic(), math.inf
    while (status := process.poll()) is None:
        now = time.monotonic()
        assert now < started + RUN_S, (folder / "output").read_text()[-3000:]
        if SAVED in (folder / "output").read_text():
            saved_at = min(saved_at, now)
        if now > saved_at + EXIT_S:
            status = 0
            break
        time.sleep(1)
    stop_ranks(process)
    return status, (folder / "output").read_text()


def stop_ranks(process: subprocess.Popen[str]) -> None:
    """Kill a training with all its ranks."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def interrupt_service(service: ServedJudge, process: subprocess.Popen[str], num_requests: int) -> None:
    """Stop the service when it has received this many requests for rewards, and start it again after some seconds."""
    while sum(path == "/v1/rewards" for _, path in service.requests) < num_requests:
        assert process.poll() is None, "the training ended before the outage"
        time.sleep(POLL_S)
    service.stop()
    time.sleep(OUTAGE_S)
    service.start()


def read_completions(folder: Path, step: int) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(
        folder / "out" / "completions" / f"completions_{step:05d}.parquet"
    ).to_pylist()
    return rows


def test_groups_over_two_ranks_stay_whole_through_a_restart_of_the_judge(tmp_path: Path) -> None:
    from datasets import Dataset

    noise = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    questions = [[{"role": "user", "content": f"What is in picture {n}?"}] for n in range(4)]
    (tmp_path / "data").mkdir()
    rows = {"prompt": questions, "image": [Image.fromarray(pixels) for pixels in noise]}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "data" / "train.parquet"))
    (tmp_path / "ranks.yaml").write_text(TWO_RANKS)
    engine = ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"])
    with served(FlexJudge(engine, SETTINGS)) as service:
        variables = {"FLEX_JUDGE_URL": service.url, "FLEX_JUDGE_GROUP_SIZE": "4"}
        variables |= {f"FLEX_JUDGE_{name.upper()}": value for name, value in SETTINGS_OF_GROUPS.items()}
        process = start_training(
            tmp_path,
            variables,
            accelerate_config=str(tmp_path / "ranks.yaml"),
            model_name_or_path=str(tiny_qwen_vl(tmp_path / "policy")),
            dataset_name=str(tmp_path / "data"),
            per_device_train_batch_size="2",  # two completions per rank, so that every group spans both ranks
            generation_batch_size="4",  # checked before the ranks start, as if there were one
        )
        try:
            interrupt_service(service, process, num_requests=3)
            status, output = wait_for_end(process, tmp_path)
        finally:
            stop_ranks(process)
    assert status == 0, output[-3000:]
    judge = JudgeReward(FlexJudge(ScriptedEngine(fair_judge), SETTINGS), **SETTINGS_OF_GROUPS)
    for step in range(1, STEPS + 1):
        completions = read_completions(tmp_path, step)
        assert [row["judge_status"] for row in completions] == ["ok"] * 4
        prompts = [str(row["prompt"]) for row in completions]
        assert len(set(prompts)) == 1
        # The same four completions, judged together in one process.
        alone = judge([questions[0]] * 4, [row["completion"] for row in completions])
        assert [row["flex_judge"] for row in completions] == pytest.approx(alone)
    log = json.loads((tmp_path / "out" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in log if "judge/whole" in entry]
    assert [entry["judge/whole"] for entry in steps] == [entry["judge/scored"] for entry in steps] == [1.0] * STEPS
    assert all(math.isfinite(entry["loss"]) for entry in steps)
    assert {len(media) for media in engine.media} == {1}
