"""`flex-judge eval NAME`: run a benchmark of a judge."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per benchmark; its published protocol gives the defaults of the flags."""
    from flex_judge.experiments.benchmarks import BENCHMARKS
    from flex_judge.experiments.commands.eval.config import EvalRun
    from flex_judge.experiments.common.flags import add_flags

    subparsers = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, benchmark in BENCHMARKS.items():
        subparser = subparsers.add_parser(name, help=benchmark.spec.about, description=benchmark.spec.about)
        subparser.epilog = f"Data: {benchmark.spec.expected}. Tasks: {', '.join(benchmark.spec.tasks)}."
        subparser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables")
        add_flags(subparser, EvalRun, benchmark.spec.protocol)


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit status: 1 if more items than `--max-failures` were not judged.
    """
    from flex_judge.experiments.benchmarks import BENCHMARKS
    from flex_judge.experiments.commands.eval.config import EvalRun
    from flex_judge.experiments.commands.eval.run import main as evaluate
    from flex_judge.experiments.commands.eval.view import compute_exit_status, print_json, print_summary
    from flex_judge.experiments.common.flags import load_config

    benchmark = BENCHMARKS[options.benchmark]
    config = load_config(EvalRun, options, benchmark.spec.protocol)
    summary = evaluate(benchmark, config)
    if options.json:
        print_json(summary)
    else:
        print_summary(summary)
    return compute_exit_status(summary, config.max_failures)
