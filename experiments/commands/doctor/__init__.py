"""`flex-judge doctor`: show what this machine can run and what is missing."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a table")


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.doctor.run import main as run

    return run(as_json=options.json)
