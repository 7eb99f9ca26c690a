"""`flex-judge bench NAME`: performance ratios for a user's machine, with both sides measured in the same run.

Seeded simulations and one-off evidence are in `tests/perf` (`python -m tests.perf NAME`) and share this command line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flex_judge.experiments.commands.bench import prefix, routing, sampling, scale, service
from flex_judge.experiments.commands.bench.result import BenchResult, print_result
from flex_judge.experiments.common.console import reserve_stdout
from flex_judge.experiments.common.flags import add_flags, load_config

__all__ = ["BENCHES", "Bench", "BenchResult", "add_arguments", "main"]


@dataclass(frozen=True)
class Bench:
    help: str
    """What is measured against what, in one line."""
    config: type[Any]
    """Dataclass of its settings, which become its flags."""
    run: Callable[[Any], BenchResult]
    """Measures; takes an instance of `config`."""


# Modules of benches load no model library before they run: their flags are needed for `--help`.
BENCHES = {
    "prefix": Bench(
        "time to judge groups without shared beginnings, over the time with our prompt order",
        prefix.PrefixConfig,
        prefix.run,
    ),
    "routing": Bench(
        "prompt tokens that two replicas take from their caches with our router, of all that is possible",
        routing.RoutingConfig,
        routing.run,
    ),
    "sampling": Bench(
        "time of n samples of a prompt as requests that share nothing, over the time with our policy",
        sampling.SamplingConfig,
        sampling.run,
    ),
    "scale": Bench(
        "rows a second and replica with 8 judges over those with one, and the driver's memory as rows grow",
        scale.ScaleConfig,
        scale.run,
    ),
    "service": Bench(
        "time of LLM.generate with the same prompts at once, over time of the service through HTTP",
        service.ServiceBenchConfig,
        service.run,
    ),
}


def add_arguments(parser: argparse.ArgumentParser, benches: Mapping[str, Bench] = BENCHES) -> None:
    """Add one subcommand for each bench, with its own flags."""
    names = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name, bench in benches.items():
        sub = names.add_parser(name, help=bench.help, description=bench.help)
        add_flags(sub, bench.config)
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def main(options: argparse.Namespace, benches: Mapping[str, Bench] = BENCHES) -> int:
    """Run the selected bench and print its result to standard output.

    Returns:
        The exit status: 0 if the goal is met, 1 if it is missed.
    """
    bench = benches[options.bench]
    config = load_config(bench.config, options)
    with reserve_stdout():  # Ray prints there too
        result = bench.run(config)
    if options.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        print_result(result)
    return 0 if result.met else 1
