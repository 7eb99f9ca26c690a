"""One rank of a GRPO run on the CPU; `accelerate launch` starts it. Writes what it saw to OUT/rank<N>.json.

Usage: grpo.py URL OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from training import Watched, questions, steps
from trl import GRPOConfig, GRPOTrainer

from judges.models import resolve_model
from reward.trl import JudgeReward

GROUP = 4


def main(url: str, out: Path) -> None:
    watched = Watched(
        JudgeReward(url, method="round_robin", reward="win_rate", group_size=GROUP, gather_s=120, deadline_s=240)
    )
    trainer = GRPOTrainer(
        model=str(resolve_model("smollm2-135m")),
        reward_funcs=watched,
        # Two completions on each rank: every group spans both.
        args=GRPOConfig(**steps(out, 3), per_device_train_batch_size=2, num_generations=GROUP, max_completion_length=8),
        train_dataset=questions(),
    )
    trainer.train()
    seen = {"ranks": trainer.accelerator.num_processes, "calls": watched.calls, "log": trainer.state.log_history}
    (out / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
