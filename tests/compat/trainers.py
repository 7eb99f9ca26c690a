"""Table of the trainers that the adapters are run with. To add one, add a row here, a driver and a test file."""

from __future__ import annotations

import os
from dataclasses import dataclass

SLIME_VARIABLE = "FLEX_JUDGE_COMPAT_SLIME"
"""Environment variable with another requirement for slime, which is no package of the index, such as a local clone."""


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
    Trainer(
        name="verifiers",
        runs="judge loader, Task.score on traces, vf-eval with the null harness, environment that compares attempts",
        requirements=("verifiers",),
    ),
    Trainer(
        name="slime",
        runs="remote_rm, custom reward function with and without --group-rm, training data of RolloutManager",
        requirements=(
            "aiohttp",
            "numpy",
            "omegaconf",
            "pillow",
            "pylatexenc",
            "qwen-vl-utils",
            "ray",
            "sympy",
            "tensorboard",
            "torch",
            "tqdm",
            "transformers",
            "wandb",
        ),
        without_dependencies=(os.environ.get(SLIME_VARIABLE) or "slime @ git+https://github.com/THUDM/slime",),
    ),
    Trainer(
        name="nemo-gym",
        runs="collection of rollouts, simple agent, resources server",
        requirements=("nemo-gym",),
    ),
    Trainer(
        name="art",
        runs="gather_trajectory_groups, captured rollouts, RULER, group rollouts of PipelineTrainer",
        requirements=("openpipe-art",),
        distribution="openpipe-art",
    ),
    Trainer(
        name="skyrl",
        runs="SkyRLGymGenerator (multi-turn, step-wise, batched) with environments, rewards and advantages, evaluate",
        # The extra `skyrl-train` needs flash-attn, which is built with a CUDA compiler.
        requirements=(
            "skyrl",
            "skyrl-gym",
            "aiohttp",
            "fastapi",
            "func_timeout",
            "hydra-core",
            "jaxtyping",
            "loguru",
            "omegaconf",
            "orjson",
            "pandas",
            "pybase64",
            "ray",
            "tensordict",
            "torchdata",
            "tqdm",
            "uvicorn",
        ),
    ),
    Trainer(
        name="areal",
        runs="WorkflowExecutor with RLVRWorkflow and VisionRLVRWorkflow in groups, Normalization, ArealOpenAI",
        # Without the GPU kernels, agent frameworks and loggers that the package needs too.
        requirements=(
            "aiofiles",
            "aiohttp",
            "colorlog",
            "datasets",
            "einops",
            "fastapi",
            "flask",
            "hydra-core==1.4.0.dev1",
            "lark",
            "numba",
            "omegaconf==2.4.0.dev2",
            "openai",
            "orjson",
            "pillow",
            "psutil",
            "pybase64",
            "ray",
            "requests",
            "swanlab",
            "tabulate",
            "tenacity",
            "tensorboardx",
            "torch",
            "torchdata",
            "trackio",
            "transformers>=5,<5.4",
            "uvicorn",
            "uvloop",
            "wandb",
        ),
        without_dependencies=("areal",),
    ),
)
TRAINERS = {trainer.name: trainer for trainer in _ALL}
