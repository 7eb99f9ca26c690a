"""`flex-judge model NAME`: print the folder of an embedded model, for one's own scripts."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from flex_judge.judges.models.embedded import EMBEDDED

    parser.add_argument(
        "name", metavar="NAME", nargs="?", help=f"Embedded model: {' or '.join(EMBEDDED)} (default: list them)"
    )


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import sys

    from flex_judge.experiments.common.console import build_console, reserve_stdout
    from flex_judge.experiments.common.progress import Progress
    from flex_judge.judges.models.embedded import EMBEDDED, find_embedded_model

    if options.name is None:
        print("\n".join(EMBEDDED))
        return 0
    model = find_embedded_model(options.name)
    with reserve_stdout() as out:  # libraries print while they convert
        if not model.is_converted:
            model.check_available()
            console = build_console(sys.stderr)
            with Progress(console) as progress, progress.show_phase(f"preparing {model.name}", waiting_for="once"):
                model.convert_once()
        print(model.convert_once(), file=out)
    return 0
