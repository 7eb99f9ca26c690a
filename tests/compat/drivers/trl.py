"""Drive TRL's trainers: their own generation, reward path and advantages, with a tiny policy on a CPU."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from driver_checks import Checks
from tiny_policy import list_unprintable_tokens, save_policy
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from flex_judge import AsyncJudgeReward, JudgeReward

PROMPTS = ["What is 2 + 3?", "What is 7 + 8?"]
GENERATIONS = 4


def build_trainer(folder: str, rewards: Any, **settings: Any) -> GRPOTrainer:
    """Build a GRPOTrainer that runs on a CPU and writes into a folder."""
    arguments = GRPOConfig(
        output_dir=str(Path(folder) / "run"),
        num_generations=GENERATIONS,
        per_device_train_batch_size=GENERATIONS * len(PROMPTS),
        max_completion_length=8,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        generation_kwargs={"suppress_tokens": list_unprintable_tokens(AutoTokenizer.from_pretrained(folder))},
        **settings,
    )
    dataset = Dataset.from_dict({"prompt": PROMPTS})
    return GRPOTrainer(model=folder, reward_funcs=rewards, args=arguments, train_dataset=dataset)


def main(url: str) -> None:
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        save_policy(folder)
        for reward_class in (JudgeReward, AsyncJudgeReward):
            with checks.check(f"GRPOTrainer trains with {reward_class.__name__}") as detail:
                reward = reward_class(url, method="round_robin", reward="win_rate", group_size=GENERATIONS)
                trainer = build_trainer(folder, reward)
                trainer.train()
                log = trainer.state.log_history[0]
                assert log["judge/scored"] == log["judge/whole"] == 1, log
                assert abs(log["rewards/flex_judge/mean"] - 0.5) < 1e-6, log  # mean win rate of a whole group
                detail.append(f"{len(trainer.state.log_history)} log entries")
        with checks.check("an unscored completion has the advantage 0"):
            trainer = build_trainer(folder, JudgeReward(url))
            texts = [f"says={score}" for score in (2, 4, 6)] + ["mumble"]
            rewards = trainer._calculate_rewards(
                [{"prompt": PROMPTS[0]}] * 4, [PROMPTS[0]] * 4, texts, [[1]] * 4
            ).flatten()
            assert rewards[:3].tolist() == [2, 4, 6], rewards
            assert torch.isnan(rewards[3]), rewards
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
