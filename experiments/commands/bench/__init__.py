"""`flex-judge bench NAME`: performance ratios for a user's machine, with both sides measured in the same run.

Seeded simulations and one-off evidence are in `tests/perf` (`python -m tests.perf NAME`) and share this command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flex_judge.experiments.commands.bench import prefix, routing, sampling, scale, service
from flex_judge.experiments.commands.bench.result import BenchResult, print_result
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.flags import add_flags, load_config
from flex_judge.experiments.common.progress import Progress
from flex_judge.judges.engines import check_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.io.json_values import dump_json

__all__ = ["BENCHES", "Bench", "BenchResult", "add_arguments", "main"]


@dataclass(frozen=True)
class Bench:
    """One benchmark of the command line: its help, its settings and the function that measures."""

    help: str
    """Measured ratio, in one line."""
    config: type[Any]
    """Dataclass of the settings, which become the flags."""
    run: Callable[[Any], BenchResult]
    """Measure with an instance of `config`."""


# `--help` imports all these modules for their flags, so they load model libraries only when they run.
BENCHES = {
    "prefix": Bench(
        "Prefix reuse: judging time without shared prompt prefixes, divided by the time with our prompt order.",
        prefix.PrefixConfig,
        prefix.run,
    ),
    "routing": Bench(
        "Prefix routing: prompt tokens that replicas read from their caches, divided by the maximum possible.",
        routing.RoutingConfig,
        routing.run,
    ),
    "sampling": Bench(
        "Sampling: time for N samples per prompt without a shared prefill, divided by the time of our policy.",
        sampling.SamplingConfig,
        sampling.run,
    ),
    "scale": Bench(
        "Scaling: rows per second per replica with 8 judges, divided by the rate with 1; and driver memory by rows.",
        scale.ScaleConfig,
        scale.run,
    ),
    "service": Bench(
        "Service overhead: time of LLM.generate on all prompts at once, divided by the time of the HTTP service.",
        service.ServiceBenchConfig,
        service.run,
    ),
}


def add_arguments(parser: argparse.ArgumentParser, benches: Mapping[str, Bench] = BENCHES) -> None:
    """Add one subcommand per bench, with its own flags."""
    subparsers = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name, bench in benches.items():
        subparser = subparsers.add_parser(name, help=bench.help, description=bench.help)
        add_flags(subparser, bench.config)
        subparser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables")


def main(options: argparse.Namespace, benches: Mapping[str, Bench] = BENCHES) -> int:
    """Run the selected bench and print its result to standard output.

    Returns:
        The exit status: 0 if the goal is met, 1 if it is missed.
    """
    bench = benches[options.bench]
    config = load_config(bench.config, options)
    if isinstance(model := getattr(config, "model", None), str):
        check_engine(EngineConfig(model, "vllm"))  # the engine of every bench with a model
    # Libraries print to both streams, which would break the JSON and the progress.
    with (
        TemporaryDirectory() as folder,
        redirect_libraries(Path(folder) / "bench.log") as console,
        Progress(console) as progress,
        progress.show_phase(f"measuring {options.bench}"),
    ):
        result = bench.run(config)
    if options.json:
        print(dump_json(result.to_json(), ascii_only=True))
    else:
        print_result(result)
    return 0 if result.met else 1
