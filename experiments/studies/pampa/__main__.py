"""Molecule case study: best-of-N and DPO of a molecular policy with a judge, on PAMPA or another table.

Usage: `python -m flex_judge.experiments.studies.pampa --data FILE --policy MODEL --judge MODEL`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flex_judge.experiments.common.command_line import record_command
from flex_judge.experiments.common.flags import parse_module_flags
from flex_judge.experiments.common.stopping import run_process, run_stoppable
from flex_judge.judges.extras import require_extras

PROGRAM = "pampa"
MODULE = "flex_judge.experiments.studies.pampa"


def main(argv: Sequence[str]) -> int:
    """Run the study.

    Returns:
        Exit status: 0, 2 for a usage error, 1 for a failed run, 130 for a stopped run.
    """
    return run_stoppable(PROGRAM, lambda: _run_study(argv))


def _run_study(argv: Sequence[str]) -> int:
    record_command(["python", "-m", MODULE, *argv])
    require_extras("the study of molecules", "serve", "train", "eval", "molecules")
    # Imported here, because the optional dependencies have to be checked first.
    from flex_judge.experiments.studies.pampa.config import CaseStudyRun
    from flex_judge.experiments.studies.pampa.run import main as run_study

    config = parse_module_flags(MODULE, __doc__, CaseStudyRun, argv)
    run_study(config)
    print(f"{(Path(config.out) / 'table.md').read_text()}\nReport: {Path(config.out) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_process(PROGRAM, lambda: main(sys.argv[1:])))
