"""`flex-judge judge`: judge the comparisons of a file, or one comparison from flags."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    from flex_judge.alignment.data.sources import SOURCE_FORMS
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.common.flags import add_flags
    from flex_judge.judges.rubrics import list_rubrics

    single = "--prompt TEXT --response TEXT [--response TEXT ...]"
    parser.usage = f"%(prog)s FILE [options]\n       %(prog)s {single} [options]"
    parser.epilog = f"Preset rubrics: {', '.join(list_rubrics())}."
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"Comparisons: {SOURCE_FORMS}")
    parser.add_argument(
        "--json", action="store_true", help="Print judgments as JSON lines; the default for a FILE without --out"
    )
    group = parser.add_argument_group("single comparison, instead of a FILE")
    group.add_argument("--prompt", metavar="TEXT", help="Question; @FILE reads it from a file, and @@ is a literal @")
    group.add_argument(
        "--response",
        metavar="TEXT",
        action="append",
        help="Answer, @FILE reads it from a text or media file; repeat the flag to compare several answers",
    )
    for medium, metavar in (("image", "FILE"), ("video", "FILE"), ("audio", "FILE"), ("molecule", "SMILES")):
        help_text = f"{medium.capitalize()} that belongs to the question; may be repeated"
        group.add_argument(f"--{medium}", metavar=metavar, action="append", default=[], help=help_text)
    add_flags(parser, JudgeRun)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from flex_judge.experiments.commands.judge.config import JudgeRun
    from flex_judge.experiments.commands.judge.view import main as run
    from flex_judge.experiments.common.flags import load_config

    return run(load_config(JudgeRun, options), options)
