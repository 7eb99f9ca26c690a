"""Helpers for tests that train a few steps with TRL on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

QUESTIONS = [[{"role": "user", "content": f"What is {n} + 2?"}] for n in range(8)]
ANSWERS = [str(n + 2) for n in range(8)]


def steps(out: Path, count: int) -> dict[str, Any]:
    """Make arguments for any TRL configuration: a few steps on the CPU, all logged, nothing saved or reported."""
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
    """Make arguments for two steps."""
    return steps(out, 2)


def questions() -> Any:
    """Make a data set of eight arithmetic questions with their answers in a separate column."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": QUESTIONS, "answer": ANSWERS})


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load_rows(builder: str, files: Any, folder: Path, **options: Any) -> Any:
    """Load files with `datasets`, as a user of them would; the cache is in the folder."""
    from datasets import load_dataset

    return load_dataset(builder, data_files=files, split="train", cache_dir=str(folder / "cache"), **options)


def logged(trainer: Any, name: str) -> list[Any]:
    """Return the values that a trainer logged under a name, step by step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class Watched:
    """Reward function that records the calls, rewards and metrics of another one."""

    def __init__(self, reward: Any) -> None:
        self.reward = reward
        self.__name__ = reward.__name__
        self.calls: list[dict[str, Any]] = []

    def __call__(self, log_metric: Callable[[str, float], None] | None = None, **call: Any) -> list[float | None]:
        metrics: dict[str, float] = {}

        def record_metric(name: str, value: float) -> None:
            metrics[name] = value
            if log_metric is not None:
                log_metric(name, value)

        rewards: list[float | None] = self.reward(log_metric=record_metric, **call)
        inputs = {name: call[name] for name in ("prompts", "completions")}
        self.calls.append({**inputs, "rewards": rewards, "metrics": metrics})
        return rewards
