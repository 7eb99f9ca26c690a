"""`flex-judge report`: write the HTML page of a run, finished or not."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="Folder of a run (--out), model folder of a training, or file of judgments; the run may be unfinished",
    )


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.common.reporting.pages import write_page

    print(write_page(Path(options.run)))
    return 0
