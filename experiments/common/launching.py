"""Multi-GPU training with one command: it restarts itself under accelerate, once per process."""

from __future__ import annotations

import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.validation.text_files import read_text

CONFIG_HELP = (
    "Accelerate configuration, to start one process per GPU: zero3, fsdp2, another one that TRL ships, or a file. "
    "On the command line only."
)
PROCESSES_HELP = "Number of processes with --accelerate_config (default: taken from the configuration)."


def add_launch_flags(parser: ArgumentParser) -> None:
    """Declare the launcher's flags for the help; `build_launch_command` removes them before training starts."""
    parser.add_argument("--accelerate_config", metavar="NAME", help=CONFIG_HELP)
    parser.add_argument("--num_processes", metavar="N", help=PROCESSES_HELP)


def build_launch_command(name: str, argv: Sequence[str]) -> list[str] | None:
    """Build the command line that starts a training command under accelerate.

    Args:
        name: name of the training command.
        argv: its flags.

    Returns:
        The command line; None without `--accelerate_config`.

    Raises:
        UsageError: no such configuration, or this machine does not meet its requirements.
    """
    # Only the launcher's own flags are parsed here; all others are passed on unchanged.
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--accelerate_config", "--accelerate-config")
    parser.add_argument("--num_processes", "--num-processes")
    try:
        launch_flags, other_flags = parser.parse_known_args(list(argv))
    except ArgumentError as e:
        raise UsageError(str(e)) from e
    if launch_flags.accelerate_config is None:
        return None
    file = _resolve_config_file(launch_flags.accelerate_config)
    _check_config(file, launch_flags.accelerate_config)
    processes = ["--num_processes", launch_flags.num_processes] if launch_flags.num_processes else []
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, *processes]
    return [*launcher, "-m", "flex_judge.experiments.cli", name, *other_flags]


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
        config = yaml.safe_load(read_text(Path(file)))
        kind = str(config["distributed_type"])
    except (ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as e:
        raise UsageError(f"--accelerate_config {name}: not an accelerate configuration: {to_one_line(e)}") from e
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise UsageError(f"--accelerate_config {name}: DeepSpeed is not installed; run: pip install deepspeed")
    if kind in ("DEEPSPEED", "FSDP") and not torch.accelerator.is_available():
        raise UsageError(f"--accelerate_config {name}: shards the weights over GPUs, but this machine has none")
