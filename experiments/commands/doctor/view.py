"""Results of the checks of `flex-judge doctor`, and their output: a table, plain lines or JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from flex_judge.judges.io.json_values import dump_json

CheckStatus = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    status: CheckStatus
    detail: str
    fix: str = ""
    """Shell command that fixes the problem; empty without one."""


def print_json(checks: Sequence[Check], obstacles: Sequence[str]) -> None:
    """Print the checks, and whether there is no obstacle, as one JSON object."""
    print(dump_json({"ok": not obstacles, "checks": [asdict(check) for check in checks]}, indent=2, ascii_only=True))


def print_checks(checks: Sequence[Check], obstacles: Sequence[str], demo_command: str) -> None:
    """Print the checks, then whether the demo can run.

    Args:
        checks: Results of the checks.
        obstacles: Names of the checks that stop the demo.
        demo_command: Shell command that runs the demo.
    """
    print_rows(checks)
    if obstacles:
        problems = "1 problem" if len(obstacles) == 1 else f"{len(obstacles)} problems"
        print(f"The demo cannot run here yet; fix {problems} (above): {', '.join(obstacles)}")
    else:
        print(f"The demo can run here: {demo_command}")


def print_rows(checks: Sequence[Check]) -> None:
    """Print the checks as a table or, if the output is not a terminal, as plain lines."""
    if sys.stdout.isatty():
        _print_table(checks)
        return
    for check in checks:
        print(f"{check.status:<8}{check.name}: {check.detail}" + f"\n        fix: {check.fix}" * bool(check.fix))


def _print_table(checks: Sequence[Check]) -> None:
    """Print the table, then the commands, which could not be copied from a table because it wraps lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, table = Console(highlight=False), Table.grid(padding=(0, 2))
    styles = {"ok": "green", "warn": "yellow", "missing": "bold red"}
    for check in checks:
        table.add_row(Text(check.status, styles[check.status]), check.name, Text(check.detail, overflow="fold"))
    console.print(table)
    for fix in dict.fromkeys(check.fix for check in checks if check.fix):
        names = ", ".join(check.name for check in checks if check.fix == fix)
        console.print(Text(f"\nTo fix {names}:\n    ").append(fix, "bold"), soft_wrap=True)
