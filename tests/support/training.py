"""What tests need for a few training steps with TRL on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

QUESTIONS = [[{"role": "user", "content": f"What is {n} + 2?"}] for n in range(8)]
ANSWERS = [str(n + 2) for n in range(8)]


def steps(out: Path, count: int) -> dict[str, Any]:
    """Arguments for any TRL configuration: some steps on the CPU, each logged, nothing saved or reported."""
    return {
        "output_dir": str(out),
        "max_steps": count,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def two_steps(out: Path) -> dict[str, Any]:
    """Two of them."""
    return steps(out, 2)


def questions() -> Any:
    """Eight sums as a data set, with their answers in a column of their own."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": QUESTIONS, "answer": ANSWERS})


def logged(trainer: Any, name: str) -> list[Any]:
    """What a trainer logged under a name, step by step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Watched:
    """A reward function that keeps what another one is asked, gives and logs."""

    def __init__(self, reward: Any) -> None:
        self.reward = reward
        self.__name__ = reward.__name__
        self.calls: list[dict[str, Any]] = []

    def __call__(self, log_metric: Callable[[str, float], None] | None = None, **call: Any) -> list[float | None]:
        metrics: dict[str, float] = {}

        def kept(name: str, value: float) -> None:
            metrics[name] = value
            if log_metric is not None:
                log_metric(name, value)

        rewards: list[float | None] = self.reward(log_metric=kept, **call)
        asked = {name: call[name] for name in ("prompts", "completions")}
        self.calls.append({**asked, "rewards": rewards, "metrics": metrics})
        return rewards
