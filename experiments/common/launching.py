"""Training on several GPUs by one command: it starts itself again under accelerate, once for each process."""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from flex_judge.judges.errors import UsageError

CONFIG_HELP = (
    "Configuration of accelerate, to start one process per GPU: zero3, fsdp2, another that TRL ships, or a file. "
    "On the command line only."
)
PROCESSES_HELP = "Number of processes with --accelerate_config (default: the configuration's)."


def build_launch_command(name: str, argv: Sequence[str]) -> list[str] | None:
    """The command line that a training command with `--accelerate_config` becomes; None without.

    Args:
        name: of the command.
        argv: its flags.

    Raises:
        UsageError: there is no such configuration, or this machine is not for it.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--accelerate_config", "--accelerate-config")
    parser.add_argument("--num_processes", "--num-processes")
    try:
        known, rest = parser.parse_known_args(list(argv))
    except ArgumentError as e:
        raise UsageError(str(e)) from e
    if known.accelerate_config is None:
        return None
    file = _resolve_config_file(known.accelerate_config)
    _check_config(file, known.accelerate_config)
    processes = ["--num_processes", known.num_processes] if known.num_processes else []
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, *processes]
    return [*launcher, "-m", "flex_judge.experiments.cli", name, *rest]


def _resolve_config_file(config: str) -> str:
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    try:
        _, file = resolve_accelerate_config_argument(["--accelerate_config", config])
    except ValueError as e:
        raise UsageError(
            f"--accelerate_config {config}: no such file, and TRL has no configuration of that name"
        ) from e
    return str(file)


def _check_config(file: str, name: str) -> None:
    import torch
    import yaml

    try:
        config = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        kind = str(config["distributed_type"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as e:
        raise UsageError(f"--accelerate_config {name}: not a configuration of accelerate's: {e}") from e
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UsageError(f"--accelerate_config {name} takes DeepSpeed: pip install deepspeed")
    if kind in ("DEEPSPEED", "FSDP") and not torch.accelerator.is_available():
        raise UsageError(f"--accelerate_config {name} spreads the weights over GPUs, and there is none here")
