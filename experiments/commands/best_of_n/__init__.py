"""`flex-judge best-of-n`: sample N answers per prompt and select the best."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
    from flex_judge.experiments.common.data_runs.command import add_data_arguments

    add_data_arguments(parser, BestOfNRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
    from flex_judge.experiments.commands.best_of_n.run import main as run
    from flex_judge.experiments.common.data_runs.command import run_over_prompts
    from flex_judge.experiments.common.data_runs.view import print_best_of_n

    return run_over_prompts(options, BestOfNRun, run, print_best_of_n)
