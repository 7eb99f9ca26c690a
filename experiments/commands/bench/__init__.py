"""`flex-judge bench NAME`: one of the performance ratios, with both sides measured in the same run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flex_judge.experiments.commands.bench import (
    best_of_n,
    loop,
    molecules,
    prefix,
    routing,
    sampling,
    scale,
    service,
    ties,
    votes,
)
from flex_judge.experiments.commands.bench.result import BenchResult, print_result
from flex_judge.experiments.common.console import stdout_for_results
from flex_judge.experiments.common.flags import add_flags, build

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
    "best-of-n": Bench(
        "judge tokens of successive halving, as a share of those of judging every one of N answers as often",
        best_of_n.BestOfNConfig,
        best_of_n.run,
    ),
    "loop": Bench(
        "time of a reward function that judges one completion after the other, over that of ours",
        loop.LoopConfig,
        loop.run,
    ),
    "molecules": Bench(
        "time to answer questions about molecules one after the other, over the time in a batch",
        molecules.MoleculesConfig,
        molecules.run,
    ),
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
    "ties": Bench(
        "tied tops of best-of-N by expected scores, as a share of those by written scores", ties.TiesConfig, ties.run
    ),
    "votes": Bench(
        "votes cast by adaptive voting, as a share of the votes of fixed voting", votes.VotesConfig, votes.run
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of the bench, and for each bench its own flags."""
    names = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name, bench in BENCHES.items():
        sub = names.add_parser(name, help=bench.help, description=bench.help)
        add_flags(sub, bench.config)
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def main(options: argparse.Namespace) -> int:
    """Run the bench that the parsed options name, and print its result to standard output.

    Returns:
        The exit status: 0 where the goal is met, 1 where it is not.
    """
    bench = BENCHES[options.bench]
    config = build(bench.config, options)
    with stdout_for_results():  # Ray prints there too
        result = bench.run(config)
    if options.json:
        print(json.dumps(result.to_json(), allow_nan=False))
    else:
        print_result(result)
    return 0 if result.met else 1
