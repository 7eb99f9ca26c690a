"""`flex-judge curate`: build training data for a judge from a teacher's judgments."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.alignment.data.sources import SOURCE_FORMS
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.common.flags import add_flags

    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help=f"Rows in the format of JudgeLM-100K (question_body, answer1_body, answer2_body, score): {SOURCE_FORMS}",
    )
    add_flags(parser, CurateRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.curate.config import CurateRun
    from flex_judge.experiments.commands.curate.run import compute_exit_status
    from flex_judge.experiments.commands.curate.run import main as run
    from flex_judge.experiments.commands.curate.view import print_curation
    from flex_judge.experiments.common.flags import load_config

    config = load_config(CurateRun, options)
    summary = run(config, options.file)
    print_curation(summary, Path(config.out))
    return compute_exit_status(summary, config.max_failures)
