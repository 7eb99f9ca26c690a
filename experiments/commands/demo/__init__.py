"""`flex-judge demo`: the whole workflow on the embedded model."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.demo.run import DemoConfig
    from flex_judge.experiments.common.flags import add_flags

    add_flags(parser, DemoConfig)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.demo.run import DemoConfig
    from flex_judge.experiments.commands.demo.run import main as run
    from flex_judge.experiments.commands.demo.view import print_summary
    from flex_judge.experiments.common.flags import load_config

    config = load_config(DemoConfig, options)
    print_summary(run(config), Path(config.out))
    return 0
