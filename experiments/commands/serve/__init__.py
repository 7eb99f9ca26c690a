"""`flex-judge serve`: run the reward service in the foreground."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.serve.config import ServeRun
    from flex_judge.experiments.common.flags import add_flags

    add_flags(parser, ServeRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.serve.config import ServeRun
    from flex_judge.experiments.commands.serve.run import main as run
    from flex_judge.experiments.common.flags import load_config

    return run(load_config(ServeRun, options))
