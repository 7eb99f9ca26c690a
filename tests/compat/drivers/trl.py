"""Drive TRL's trainers: their own generation, reward path and advantages, with a tiny policy on a CPU."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from driver_checks import Checks
from tiny_policy import list_unprintable_tokens, save_policy
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.async_grpo.async_rollout_worker import RolloutGroup, TrainingSequence, _AsyncRolloutLoop
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from flex_judge import AsyncJudgeReward, JudgeReward

PROMPTS = ["What is 2 + 3?", "What is 7 + 8?"]
GENERATIONS = 4
TEXTS = ["says=2", "says=4", "mumble", "says=6"]
RANKS_TIMEOUT_S = 120
LOG_MARK = "log of the first step: "
QUIET = {
    "max_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
}


def make_arguments(folder: str, ranks: int = 1) -> dict[str, Any]:
    """Make the settings of a group trainer that runs on a CPU; the groups are split over the ranks."""
    return QUIET | {
        "output_dir": str(Path(folder) / "run"),
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": GENERATIONS * len(PROMPTS) // (ranks * ranks),
        "max_completion_length": 8,
        "generation_kwargs": {"suppress_tokens": list_unprintable_tokens(AutoTokenizer.from_pretrained(folder))},
    }


def load_questions() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS})


def check_log(log: dict[str, Any], mean: float) -> None:
    """Check that all rewards are there, that each group was whole, and their mean."""
    assert log["judge/scored"] == log["judge/whole"] == 1, log
    assert abs(log["rewards/flex_judge/mean"] - mean) < 1e-6, log
    assert math.isfinite(log["loss"]), log


def check_group_trainers(checks: Checks, folder: str, url: str) -> None:
    """Train a step with GRPO and RLOO, whose completions are compared with each other."""
    settings: dict[str, Any] = {"group_size": GENERATIONS}
    for name, reward in (
        ("JudgeReward", JudgeReward(url, method="round_robin", reward="win_rate", **settings)),
        ("AsyncJudgeReward", AsyncJudgeReward(url, method="round_robin", reward="win_rate", **settings)),
    ):
        with checks.check(f"GRPOTrainer trains with {name}"):
            arguments = GRPOConfig(**make_arguments(folder))
            trainer = GRPOTrainer(folder, reward, args=arguments, train_dataset=load_questions())
            trainer.train()
            check_log(trainer.state.log_history[0], 0.5)  # the mean win rate of a whole group
    with checks.check("RLOOTrainer trains on ranks of a knock-out"):
        knockout = JudgeReward(url, method="knockout", reward="rank", **settings)
        arguments = RLOOConfig(**make_arguments(folder))
        trainer = RLOOTrainer(folder, knockout, args=arguments, train_dataset=load_questions())
        trainer.train()
        check_log(trainer.state.log_history[0], 0.5)


def check_unscored(checks: Checks, folder: str, url: str) -> None:
    """Score completions of which one has no score, by GRPO's and async GRPO's own code."""
    prompts = [[{"role": "user", "content": PROMPTS[0]}]] * len(TEXTS)
    completions = [[{"role": "assistant", "content": text}] for text in TEXTS]
    with checks.check("GRPOTrainer leaves an unscored completion out"):
        arguments = GRPOConfig(**make_arguments(folder))
        trainer = GRPOTrainer(folder, JudgeReward(url), args=arguments, train_dataset=load_questions())
        inputs = [{"prompt": prompt} for prompt in prompts]
        rewards = trainer._calculate_rewards(inputs, prompts, completions, [[1]] * len(TEXTS)).flatten().tolist()
        assert [rewards[i] for i in (0, 1, 3)] == [2, 4, 6], rewards
        assert math.isnan(rewards[2]), rewards
    with checks.check("AsyncGRPOTrainer's rollout worker gives it the advantage 0"):
        sequences = [[TrainingSequence([1], [1], [0.0], rollout_id=str(i))] for i in range(len(TEXTS))]
        counts = [0] * len(TEXTS)
        group = RolloutGroup(
            prompts, {}, completions, [[1]] * len(TEXTS), sequences, counts, counts, 0, 0, [None] * 4, [None] * 4
        )
        loop = SimpleNamespace(
            reward_funcs=[JudgeReward(url)],
            reward_func_names=["flex_judge"],
            _env_reward_types=[],
            _provides_rollout_reward=False,
        )
        samples = asyncio.run(_AsyncRolloutLoop._score_group(loop, group))
        advantages = [sample.advantage for sample in samples]
        assert advantages[2] == 0, advantages
        assert advantages[0] < advantages[1] < advantages[3], advantages


def check_trajectories(checks: Checks, folder: str, url: str) -> None:
    """Judge completions with tool calls, as GRPO's tool loop passes them."""
    with checks.check("a completion with tool calls is judged as a trajectory"):
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
        completions = [
            [
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "name": "add", "content": "5"},
                {"role": "assistant", "content": f"says={score}"},
            ]
            for score in (3, 7)
        ]
        prompts = [[{"role": "user", "content": PROMPTS[0]}]] * 2
        arguments = GRPOConfig(**make_arguments(folder))
        trainer = GRPOTrainer(folder, JudgeReward(url), args=arguments, train_dataset=load_questions())
        inputs = [{"prompt": prompt} for prompt in prompts]
        rewards = trainer._calculate_rewards(inputs, prompts, completions, [[1]] * 2).flatten().tolist()
        assert rewards == [3, 7], rewards


def check_online_dpo(checks: Checks, folder: str, url: str) -> None:
    with checks.check("OnlineDPOTrainer trains on margins"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        arguments = QUIET | {"output_dir": str(Path(folder) / "run"), "per_device_train_batch_size": 2}
        trainer = OnlineDPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=JudgeReward(url, method="round_robin", reward="margin", unscored="raise"),
            args=OnlineDPOConfig(
                **arguments,
                max_new_tokens=8,
                max_length=128,
                generation_kwargs={"suppress_tokens": list_unprintable_tokens(tokenizer)},
            ),
            train_dataset=load_questions(),
        )
        trainer.train()
        assert math.isfinite(trainer.state.log_history[0]["loss"]), trainer.state.log_history


def check_ranks(checks: Checks, folder: str, url: str) -> None:
    """Train GRPO on two ranks, which share each group."""
    with checks.check("GRPOTrainer on two ranks: groups over both ranks are whole"):
        # torchrun chooses the port itself, and ends both ranks if one fails.
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, "-P", *launcher, __file__, url, folder]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            output, errors = process.communicate(timeout=RANKS_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
        assert process.returncode == 0, f"status {process.returncode}: {errors[-4000:]}"
        log = json.loads(next(line for line in output.splitlines() if line.startswith(LOG_MARK)).removeprefix(LOG_MARK))
        check_log(log, 0.5)


def train_rank(url: str, folder: str) -> None:
    """Train as one of two ranks, and print the log of the first step."""
    # Shows where a rank hangs, before the time limit ends it.
    faulthandler.dump_traceback_later(RANKS_TIMEOUT_S - 20, exit=False)
    reward = JudgeReward(url, method="round_robin", reward="win_rate", group_size=GENERATIONS)
    arguments = GRPOConfig(**make_arguments(folder, ranks=2))
    trainer = GRPOTrainer(folder, reward, args=arguments, train_dataset=load_questions())
    trainer.train()
    if trainer.accelerator.is_main_process:
        print(f"\n{LOG_MARK}{json.dumps(trainer.state.log_history[0])}", flush=True)
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # at the end of Python, torch can wait forever for a thread of gloo, and that thread for Python


def main(url: str) -> None:
    checks = Checks()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(folder)
        check_group_trainers(checks, folder, url)
        check_unscored(checks, folder, url)
        check_trajectories(checks, folder, url)
        check_online_dpo(checks, folder, url)
        check_ranks(checks, folder, url)
    checks.finish()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        train_rank(*sys.argv[1:])
    else:
        main(sys.argv[1])
