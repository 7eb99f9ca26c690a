"""`flex-judge report`: rebuild the HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", metavar="RUN", help="Folder of a finished run of flex-judge demo or flex-judge eval")


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.report.run import write_run_page

    print(write_run_page(Path(options.run)))
    return 0
