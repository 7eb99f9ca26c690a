"""Table of the trainers that the adapters are run with. To add one, add a row here, a driver and a test file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trainer:
    """A trainer package, how its environment is made, and what its driver runs."""

    name: str
    """Name of the driver, and of the distribution whose version is reported unless `distribution` names another."""
    runs: str
    """What the driver runs, in one line."""
    requirements: tuple[str, ...]
    """Requirements in the environment, next to the wheel of the core. Without a version, the newest is installed."""
    without_dependencies: tuple[str, ...] = ()
    """Requirements that are installed without their own dependencies, which cannot be installed without a GPU."""
    distribution: str = ""
    """Name of the distribution, if it differs from `name`."""
    python: str = "3.12"
    """Version of Python."""
    refuse: tuple[str, ...] = ()
    """Dependencies of the trainer that its reward path does not use, and that are left out."""


OVERRIDES = ("torch==2.13.0",)
"""The torch of constraints.txt, in every environment: one download for all."""
UNUSED_ON_A_CPU = ("triton", "cuda-bindings", "nvidia-cusolver")
"""Dependencies of torch that it loads and runs without on a CPU, see [tool.uv] in pyproject.toml."""

_ALL = (
    Trainer(
        name="trl",
        runs="GRPOTrainer (also on two ranks), RLOOTrainer, OnlineDPOTrainer, rollout worker of AsyncGRPOTrainer",
        requirements=("trl",),
    ),
    Trainer(
        name="verl",
        runs="RewardLoopWorker and RewardLoopManager with the managers naive, dapo, gdpo, remote and rate_limited",
        requirements=("verl", "cachetools", "fastapi", "pillow", "uvicorn"),
    ),
    Trainer(
        name="openrlhf",
        runs="SingleTurnAgentExecutor (remote URL), RolloutRayActor's agent path, SamplesGenerator",
        requirements=(
            "aiohttp",
            "ray",
            "torch",
            "tqdm",
            "transformers",
            "packaging",
            "sympy",
            "pylatexenc",
            "numpy",
            "pillow",
        ),
        without_dependencies=("openrlhf",),
    ),
)
TRAINERS = {trainer.name: trainer for trainer in _ALL}
