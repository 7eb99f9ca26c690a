"""`flex-judge eval`: benchmarks of a judge."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each benchmark, whose defaults are its protocol."""
    from flex_judge.experiments.benchmarks import BENCHMARKS
    from flex_judge.experiments.commands.eval.config import EvalRun
    from flex_judge.experiments.common.flags import add_flags

    names = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, benchmark in BENCHMARKS.items():
        sub = names.add_parser(name, help=benchmark.spec.about, description=benchmark.spec.about)
        sub.epilog = f"Data: {benchmark.spec.expected}. Tasks: {', '.join(benchmark.spec.tasks)}."
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        add_flags(sub, EvalRun, benchmark.spec.protocol)


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit status: 1 if more items than `--max-failures` were not judged.
    """
    from flex_judge.experiments.benchmarks import BENCHMARKS
    from flex_judge.experiments.commands.eval.config import EvalRun
    from flex_judge.experiments.commands.eval.run import main as evaluate
    from flex_judge.experiments.commands.eval.view import get_exit_status, print_json, print_summary
    from flex_judge.experiments.common.flags import load_config

    benchmark = BENCHMARKS[options.benchmark]
    config = load_config(EvalRun, options, benchmark.spec.protocol)
    summary = evaluate(benchmark, config)
    if options.json:
        print_json(summary)
    else:
        print_summary(summary)
    return get_exit_status(summary, config.max_failures)
