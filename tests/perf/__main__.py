"""`python -m tests.perf NAME`: measure one ratio and compare it with its goal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from flex_judge.experiments.commands import bench
from flex_judge.experiments.commands.bench import Bench
from flex_judge.judges.errors import UsageError
from tests.perf import arrivals, best_of_n, loop, molecules, pairings, ties, votes

BENCHES = {
    "arrivals": Bench(
        "time to the last reward of a group that is judged when complete over the time with early comparisons",
        arrivals.ArrivalsConfig,
        arrivals.run,
    ),
    "best-of-n": Bench(
        "judge tokens of successive halving over the tokens of judging all N answers equally often",
        best_of_n.BestOfNConfig,
        best_of_n.run,
    ),
    "loop": Bench(
        "time of a reward function that judges completions one by one over the time of JudgeReward",
        loop.LoopConfig,
        loop.run,
    ),
    "molecules": Bench(
        "time to answer questions about molecules one by one over the time to answer them in a batch",
        molecules.MoleculesConfig,
        molecules.run,
    ),
    "pairings": Bench(
        "rank correlation of Swiss rounds over the one of a round robin, on a noisy judge",
        pairings.PairingsConfig,
        pairings.run,
    ),
    "ties": Bench(
        "groups with a tied best answer by expected score over groups with one by written score",
        ties.TiesConfig,
        ties.run,
    ),
    "votes": Bench("votes cast by adaptive voting over the votes cast by fixed voting", votes.VotesConfig, votes.run),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one measurement.

    Returns:
        Exit status: 0 if the goal is met, 1 if it is missed, 2 for wrong usage.
    """
    parser = argparse.ArgumentParser("python -m tests.perf", description=__doc__)
    bench.add_arguments(parser, BENCHES)
    try:
        return bench.main(parser.parse_args(arguments), BENCHES)
    except UsageError as error:
        print(f"tests.perf: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
