"""Arithmetic loop: train a judge, make preference pairs, tune the policy with DPO and evaluate it.

Usage: `python -m flex_judge.experiments.studies.arithmetic_loop [loop|judge|ablations]`. `loop` runs the full loop
(default), `judge` its first step alone, and `ablations` compares variants of the judge.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.command_line import record_command
from flex_judge.experiments.common.flags import parse_module_flags
from flex_judge.experiments.common.stopping import run_process, run_stoppable
from flex_judge.judges.extras import require_extras

PROGRAM = "arithmetic loop"
MODULE = "flex_judge.experiments.studies.arithmetic_loop"
STEPS = ("loop", "judge", "ablations")


def main(argv: Sequence[str]) -> int:
    """Run one of STEPS, by default the loop.

    Returns:
        Exit status: 0, 2 for a usage error, 1 for a failed run, 130 for a stopped run.
    """
    return run_stoppable(PROGRAM, lambda: _run_step(argv))


def _run_step(argv: Sequence[str]) -> int:
    step, flags = (argv[0], argv[1:]) if argv and argv[0] in STEPS else (STEPS[0], argv)
    record_command(["python", "-m", MODULE, *argv])
    require_extras("the arithmetic loop", "serve", "train", "eval")
    config, run = _find_step(step)
    print(run(parse_module_flags(f"{MODULE} {step}", __doc__, config, flags)))
    return 0


def _find_step(name: str) -> tuple[type[Any], Callable[[Any], str]]:
    """Return the settings class of a step, and the function that runs the step and returns the text to print."""
    # Imported here, because the optional dependencies have to be checked first.
    from flex_judge.alignment.reporting.markdown import to_markdown
    from flex_judge.experiments.studies.arithmetic_loop import ablations, judge, loop
    from flex_judge.experiments.studies.arithmetic_loop.card import build_evaluation_table

    def run_loop(config: loop.ClosedLoopRun) -> str:
        loop.main(config)
        return f"{(Path(config.out) / 'table.md').read_text()}\nReport: {Path(config.out) / 'report.html'}"

    def run_judge(config: judge.EmbeddedJudgeRun) -> str:
        table = to_markdown(build_evaluation_table(judge.main(config)))
        return f"{table}\nJudge and model card: {Path(config.out) / judge.RECIPE}"

    def run_ablations(config: judge.EmbeddedJudgeRun) -> str:
        return ablations.render_table(ablations.main(config))

    steps: dict[str, tuple[type[Any], Callable[[Any], str]]] = {
        "loop": (loop.ClosedLoopRun, run_loop),
        "judge": (judge.EmbeddedJudgeRun, run_judge),
        "ablations": (judge.EmbeddedJudgeRun, run_ablations),
    }
    return steps[name]


if __name__ == "__main__":
    sys.exit(run_process(PROGRAM, lambda: main(sys.argv[1:])))
