"""Helpers for tests that run `flex-judge sft` on a CPU for two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flex_judge.experiments.cli import main

HERE = ("--use_cpu", "--bf16", "False", "--dtype", "float32", "--max_steps", "2", "--think-tokens", "4")
SEEN = (
    "--disable_tqdm",
    "True",
    "--learning_rate",
    "0.01",
    "--effective-batch",
    "2",
    "--per_device_train_batch_size",
    "1",
)


def tensors(folder: Path) -> dict[str, Any]:
    """Read all weights of a folder by name."""
    from safetensors import safe_open

    weights_by_name: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            weights_by_name |= {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    return weights_by_name


def sft(model: Path, data: Path, out: Path, *flags: str) -> int:
    """Run `flex-judge sft` and return its exit status."""
    return main(build_sft_command(model, data, out, *flags))


def build_sft_command(model: Path, data: Path, out: Path, *flags: str) -> list[str]:
    """Build the arguments of `flex-judge sft`."""
    return ["sft", str(data), "--model_name_or_path", str(model), "--output_dir", str(out), *HERE, *SEEN, *flags]
