"""GRPO curves: train a policy on rewards of a served judge, and measure its true accuracy while it trains.

Usage: `python -m flex_judge.experiments.studies.grpo_curves`. The right answers are known, so the judge's scores can be
compared with the truth at every step. Fixed answers, the canaries, are judged beside those of the policy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flex_judge.experiments.common.command_line import record_command
from flex_judge.experiments.common.flags import parse_module_flags
from flex_judge.experiments.common.stopping import run_process, run_stoppable
from flex_judge.judges.extras import require_extras

PROGRAM = "grpo curves"
MODULE = "flex_judge.experiments.studies.grpo_curves"


def main(argv: Sequence[str]) -> int:
    """Run the study.

    Returns:
        Exit status: 0, 2 for a usage error, 1 for a failed run, 130 for a stopped run.
    """
    return run_stoppable(PROGRAM, lambda: _run_study(argv))


def _run_study(argv: Sequence[str]) -> int:
    record_command(["python", "-m", MODULE, *argv])
    require_extras("the GRPO curves", "serve", "train", "eval")
    # Imported here, because the optional dependencies have to be checked first.
    from flex_judge.alignment.reporting.markdown import to_markdown
    from flex_judge.experiments.studies.grpo_curves.page import build_results_table
    from flex_judge.experiments.studies.grpo_curves.run import GrpoCurvesRun, run_study

    config = parse_module_flags(MODULE, __doc__, GrpoCurvesRun, argv)
    print(f"{to_markdown(build_results_table(run_study(config)))}\nReport: {Path(config.out) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_process(PROGRAM, lambda: main(sys.argv[1:])))
