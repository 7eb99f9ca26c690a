"""`flex-judge eval NAME`: run a benchmark of a judge."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flex_judge.experiments.benchmarks.benchmark import Benchmark


SUITE = "suite"
_ABOUT_SUITES = "Run several benchmarks with one judge, for one table next to published results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand per benchmark; its published protocol gives the defaults of the flags."""
    from flex_judge.alignment.data.sources import SOURCE_FORMS
    from flex_judge.experiments.benchmarks import BENCHMARKS, OWN_DATA
    from flex_judge.experiments.benchmarks.suites import SUITES
    from flex_judge.experiments.commands.eval.config import EvalRun, LabelledRun
    from flex_judge.experiments.commands.eval.suite import SuiteRun, describe_suites
    from flex_judge.experiments.common.flags import add_flags

    subparsers = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    own_data = OWN_DATA.spec
    subparser = subparsers.add_parser(
        own_data.name, help=own_data.about, description=f"{own_data.about}. Rows: {own_data.expected}."
    )
    subparser.add_argument("file", metavar="FILE", nargs="*", help=f"Labelled rows: {SOURCE_FORMS}")
    subparser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables")
    add_flags(subparser, LabelledRun)
    subparser = subparsers.add_parser(SUITE, help=f"{_ABOUT_SUITES}: {', '.join(SUITES)}", description=_ABOUT_SUITES)
    subparser.add_argument("suite", choices=tuple(SUITES), help="Suite to run")
    subparser.add_argument("--json", action="store_true", help="Print one JSON object instead of a table")
    subparser.epilog = describe_suites()  # argparse does not format an epilog without %(prog)s, unlike help texts
    add_flags(subparser, SuiteRun)
    for name, benchmark in BENCHMARKS.items():
        subparser = subparsers.add_parser(name, help=benchmark.spec.about, description=benchmark.spec.about)
        spec = benchmark.spec
        default = f"By default, {', '.join(spec.hub)} is read." if spec.hub else "Name it with --data."
        files = " or ".join(pattern.replace("|", " with ") for pattern in spec.patterns)
        subparser.epilog = (
            f"Data: {spec.expected}. They come from {spec.origin}. {default} Files in a folder: {files}. "
            f"Tasks: {', '.join(spec.tasks)}."
        )
        subparser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables")
        add_flags(subparser, EvalRun, benchmark.spec.protocol)


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit status: 1 if more items than `--max-failures` were not judged.
    """
    from flex_judge.experiments.benchmarks import BENCHMARKS, OWN_DATA
    from flex_judge.experiments.commands.eval.config import EvalRun, LabelledRun
    from flex_judge.experiments.commands.eval.run import main as evaluate
    from flex_judge.experiments.commands.eval.view import compute_exit_status, print_json, print_summary
    from flex_judge.experiments.common.flags import load_config

    if options.benchmark == SUITE:
        return _run_suite(options)
    if options.benchmark == OWN_DATA.spec.name:
        benchmark: Benchmark = OWN_DATA
        if options.file:
            options.data = [*options.file, *getattr(options, "data", [])]
        config: EvalRun = load_config(LabelledRun, options)
    else:
        benchmark = BENCHMARKS[options.benchmark]
        config = load_config(EvalRun, options, benchmark.spec.protocol)
    summary = evaluate(benchmark, config)
    if options.json:
        print_json(summary)
    else:
        print_summary(summary)
    return compute_exit_status(summary, config.max_failures)


def _run_suite(options: argparse.Namespace) -> int:
    from flex_judge.experiments.commands.eval.suite import SuiteRun, run_suite
    from flex_judge.experiments.commands.eval.suite_entries import compute_suite_status
    from flex_judge.experiments.commands.eval.suite_table import print_suite
    from flex_judge.experiments.common.flags import load_values
    from flex_judge.judges.io.json_values import dump_json

    values = load_values(SuiteRun, options)
    summary = run_suite(options.suite, values)
    if options.json:
        print(dump_json(summary, ascii_only=True))
    else:
        print_suite(summary)
    return compute_suite_status(summary, values.get("max_failures", 0))
