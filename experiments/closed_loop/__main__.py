"""`python -m experiments.closed_loop [judge|ablations]`: the whole loop; its first step alone; what matters in that."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.configs import add_flags, build
from judges.errors import JudgeError, UsageError


def main(argv: Sequence[str]) -> int:
    """Run the loop.

    Returns:
        The exit status: 0, 2 for what the user can mend, 1 for what ended the run.
    """
    from experiments.closed_loop import ablations, judge, loop
    from experiments.closed_loop.card import table

    parser = argparse.ArgumentParser(prog="python -m experiments.closed_loop", description=__doc__)
    add_flags(parser, loop.ClosedLoop)
    steps = parser.add_subparsers(dest="step", metavar="{judge,ablations}")
    add_flags(steps.add_parser("judge", help="make the embedded judge, and examine it"), judge.JudgeMaking)
    add_flags(steps.add_parser("ablations", help="make it in other ways, beside it"), judge.JudgeMaking)
    options = parser.parse_args(argv)
    try:
        if options.step == "judge":
            making = build(judge.JudgeMaking, options)
            summary = judge.main(making)
            print(f"{table(summary)}\n\nThe judge, with its card: {Path(making.out) / judge.RECIPE}")
        elif options.step == "ablations":
            making = build(judge.JudgeMaking, options)
            print(ablations.table(ablations.main(making)))
        else:
            config = build(loop.ClosedLoop, options)
            loop.main(config)
            print(f"{(Path(config.out) / 'table.md').read_text()}\nThe page: {Path(config.out) / 'loop.html'}")
    except UsageError as e:
        print("closed loop:", " ".join(str(e).split()), file=sys.stderr)
        return 2
    except JudgeError as e:
        print(f"closed loop: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("closed loop: stopped; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
