"""A judge that sleeps while TRL trains: it is awake for the rewards of all ranks, and for nothing else."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from scripts import SETTINGS, fair_judge
from served import Served
from tiny_models import tiny_llama

from flex_judge.judges import Comparison, FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.engines.sleep import EngineSleeper
from flex_judge.judges.errors import EngineAsleepError, UsageError
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.routes import create_app
from flex_judge.reward.server.sleep import SleepOrder, SleepSwitch
from flex_judge.reward.trl import JudgeReward

RUN_S = 240
RANK = """
import json, os, sys
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from flex_judge import JudgeClient, JudgeReward

url, policy = sys.argv[1:]
trainer = GRPOTrainer(
    model=policy,
    reward_funcs=JudgeReward(url, method="round_robin", reward="win_rate", group_size=4, sleep_between=2),
    train_dataset=Dataset.from_list([{"prompt": f"What is {n} + 2?"} for n in range(4)]),
    args=GRPOConfig(
        output_dir="out", max_steps=2, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
        per_device_train_batch_size=2, num_generations=4, max_completion_length=8, gradient_checkpointing=False,
    ),
)
trainer.train()
if trainer.accelerator.is_main_process:
    print("LOG", json.dumps(trainer.state.log_history), flush=True)
trainer.accelerator.wait_for_everyone()
os._exit(0)  # at the end of Python, torch 2.13 can wait forever for a thread of gloo, and that thread for Python
"""


class SleepingService:
    """Judge behind the gateway without Ray, which notes when its engine sleeps and wakes."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.engine = ScriptedEngine(fair_judge)
        self.engine.sleeper = EngineSleeper("scripted", self._note_sleep, self._note_wake)
        self.judge = FlexJudge(self.engine, SETTINGS)

    async def _note_sleep(self, level: int) -> None:
        self.changes.append(f"sleep {level}")

    async def _note_wake(self, _: int) -> None:
        self.changes.append("wake")

    async def read_order(self) -> SleepOrder:
        return SleepOrder()

    async def apply_level(self, level: int, previous: int) -> None:
        await (self.judge.sleep_async(level) if level else self.judge.wake_async())

    def make_app(self) -> Any:
        return create_app(Gateway(self.judge.ajudge, sleep=SleepSwitch(self)))


@pytest.mark.slow
def test_the_judge_sleeps_between_the_rewards_of_two_ranks(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "policy")
    (tmp_path / "rank.py").write_text(RANK)
    service = SleepingService()
    served = Served(service.make_app)
    served.start()
    JudgeClient(served.url).sleep_sync()
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    process = subprocess.run(
        [*command, "--main_process_port", "0", "rank.py", served.url, "policy"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    served.stop()
    assert process.returncode == 0, process.stderr[-3000:]
    assert service.changes == ["sleep 1", *["wake", "sleep 2"] * 2]
    log = json.loads(process.stdout.partition("LOG ")[2].splitlines()[0])
    assert [entry["judge/whole"] for entry in log[:2]] == [1, 1]
    assert [entry["rewards/flex_judge/mean"] for entry in log[:2]] == pytest.approx([0.5, 0.5])


def test_a_judge_in_the_trainers_process_sleeps_between_calls() -> None:
    service = SleepingService()
    reward = JudgeReward(service.judge, sleep_between=1)
    for _ in range(2):
        assert reward(["Question?"], ["answer"], trainer_state=None)[0] is not None
        with pytest.raises(EngineAsleepError):
            service.judge.judge([Comparison.of("Question?", "answer")])
    assert service.changes == ["sleep 1", "wake", "sleep 1"]


def test_sleep_between_needs_a_trainer_that_waits_for_its_rewards() -> None:
    with pytest.raises(UsageError, match="sleep_between must be 1, 2 or None, not 3"):
        JudgeReward("http://127.0.0.1:1", sleep_between=3)  # type: ignore[arg-type]
    reward = pickle.loads(pickle.dumps(JudgeReward("http://127.0.0.1:1", sleep_between=1)))
    with pytest.raises(UsageError, match="leave sleep_between out"):
        reward(["Question?"], ["answer"])
