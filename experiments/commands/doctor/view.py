"""Output of `flex-judge doctor`: a table, plain lines or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from flex_judge.experiments.commands.doctor.run import REQUIRED_CHECKS, Check, build_command, run_checks


def main(as_json: bool) -> int:
    """Print the checks as a table, as plain lines (if not to a terminal) or as JSON.

    Returns:
        The exit status: 0 if the demo can run here, else 1.
    """
    checks = run_checks()
    # A memory check never has status missing, but too little memory stops the demo.
    obstacles = [
        c.name for c in checks if c.name in REQUIRED_CHECKS and c.status == {"memory": "warn"}.get(c.name, "missing")
    ]
    if as_json:
        print(json.dumps({"ok": not obstacles, "checks": [asdict(check) for check in checks]}, indent=2))
        return int(bool(obstacles))
    if sys.stdout.isatty():
        _print_table(checks)
    else:
        for check in checks:
            print(f"{check.status:<8}{check.name}: {check.detail}" + f"\n        fix: {check.fix}" * bool(check.fix))
    if obstacles:
        problems = "1 problem" if len(obstacles) == 1 else f"{len(obstacles)} problems"
        print(f"The demo cannot run here yet; fix {problems} (above): {', '.join(obstacles)}")
    else:
        print(f"The demo can run here: {build_command('demo')}")
    return int(bool(obstacles))


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
