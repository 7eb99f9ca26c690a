"""`flex-judge report`: the HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", metavar="RUN", help="folder of a finished run")


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    print(write_page(Path(options.run)))
    return 0


def write_page(run: Path) -> Path:
    """Write the page of a finished run again, and return its path.

    Raises:
        UsageError: the folder holds no finished run, or a broken one.
    """
    from flex_judge.experiments.commands.eval.page import write_page as write_benchmark
    from flex_judge.experiments.commands.report.run import write_report
    from flex_judge.judges.io.jsonl import read_object

    file = run / "summary.json"
    if file.is_file() and "benchmark" in read_object(file):
        return write_benchmark(run)
    return write_report(run)
