"""`flex-judge judge`: judge the comparisons of a file."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.common.flags import add_flags
    from flex_judge.judges.rubrics import list_rubrics

    one = "--prompt TEXT --response TEXT [--response TEXT ...]"
    parser.usage = f"%(prog)s FILE [options]\n       %(prog)s {one} [options]"
    parser.epilog = f"Rubrics that come with it: {', '.join(list_rubrics())}."
    parser.add_argument("file", metavar="FILE", nargs="?", help="comparisons as .jsonl or .parquet")
    parser.add_argument(
        "--json", action="store_true", help="print judgments as JSON lines; what a FILE without --out does anyway"
    )
    group = parser.add_argument_group("one comparison instead of a file; @FILE stands for what is in a file, @@ for @")
    group.add_argument("--prompt", metavar="TEXT", help="the question")
    group.add_argument("--response", metavar="TEXT", action="append", help="an answer; repeat it to compare several")
    for medium, metavar in (("image", "FILE"), ("video", "FILE"), ("audio", "FILE"), ("molecule", "SMILES")):
        said = f"{medium} that belongs to the question; may be repeated"
        group.add_argument(f"--{medium}", metavar=metavar, action="append", default=[], help=said)
    add_flags(parser, JudgeRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.commands.judge.view import main as run
    from flex_judge.experiments.common.flags import load_config

    return run(load_config(JudgeRun, options), options)
