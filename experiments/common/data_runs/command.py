"""Command line shared by the commands that run over prompts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.sources import SOURCE_FORMS
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.data_runs.view import compute_exit_status
from flex_judge.experiments.common.flags import add_flags, load_config

RunOverPrompts = Callable[[Any, str | None], dict[str, Any]]
"""(settings, file) -> summary."""
ShowSummary = Callable[[dict[str, Any], Path], None]
"""Prints a summary; the path is the output folder."""


def add_data_arguments(parser: argparse.ArgumentParser, settings: type[DataFlags]) -> None:
    """Add the argument for the file of prompts and the flags of a command."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help=f"Prompts: {SOURCE_FORMS} (default: the embedded task)",
    )
    add_flags(parser, settings)


def run_over_prompts(
    options: argparse.Namespace, settings: type[DataFlags], run: RunOverPrompts, show: ShowSummary
) -> int:
    """Run a command over prompts, print its summary, and return the exit status."""
    config = load_config(settings, options)
    summary = run(config, options.file)
    show(summary, Path(config.out))
    return compute_exit_status(summary, config.max_failures)
