"""`flex-judge report RUN`: the page of whatever run a folder holds."""

from __future__ import annotations

from pathlib import Path

from flex_judge.experiments.commands.eval.page import write_page as write_benchmark
from flex_judge.experiments.commands.report.run import write_report
from flex_judge.judges.io.jsonl import read_object


def write_page(run: Path) -> Path:
    """Write the page of a finished run again, and return its path.

    Raises:
        UsageError: the folder holds no finished run, or a broken one.
    """
    file = run / "summary.json"
    if file.is_file() and "benchmark" in read_object(file):
        return write_benchmark(run)
    return write_report(run)
