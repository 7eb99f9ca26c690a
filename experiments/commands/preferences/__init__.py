"""`flex-judge preferences`: build a preference data set from prompts."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.preferences.config import PreferenceRun
    from flex_judge.experiments.common.data_runs.command import add_data_arguments

    add_data_arguments(parser, PreferenceRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.preferences.config import PreferenceRun
    from flex_judge.experiments.commands.preferences.run import main as run
    from flex_judge.experiments.common.data_runs.command import run_over_prompts
    from flex_judge.experiments.common.data_runs.view import print_preferences

    return run_over_prompts(options, PreferenceRun, run, print_preferences)
