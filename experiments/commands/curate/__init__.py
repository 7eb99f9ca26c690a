"""`flex-judge curate`: training data for a judge from a teacher's judgments."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.common.flags import add_flags

    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="rows with question_body, answer1_body, answer2_body and score, as JudgeLM-100K has them: "
        "a .jsonl or .parquet file, or hub:OWNER/NAME[:CONFIG][@SPLIT]",
    )
    add_flags(parser, CurateRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.commands.curate.run import exit_status
    from flex_judge.experiments.commands.curate.run import main as run
    from flex_judge.experiments.commands.curate.view import print_curated
    from flex_judge.experiments.common.flags import build

    config = build(CurateRun, options)
    summary = run(config, options.file)
    print_curated(summary, Path(config.out))
    return exit_status(summary, config.max_failures)
