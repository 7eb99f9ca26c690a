"""Checks of a driver: each prints one JSON object, `{"check": ..., "ok": ..., "detail": ...}`, on a line of its own.

Imported by the drivers, which run in the environment of a trainer; it needs the standard library only.

Example:
    checks = Checks()
    with checks.check("rewards are complete") as detail:
        rewards = ...
        assert len(rewards) == 8, rewards
        detail.append("8 rewards")
    checks.finish()
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Checks:
    """Collection of the checks of one driver."""

    def __init__(self) -> None:
        """Check first that the environment holds the wheel, and not the checkout."""
        self._failed = 0
        with self.check("the wheel is installed") as detail:
            import flex_judge

            origin = Path(flex_judge.__file__).resolve()
            assert origin.is_relative_to(Path(sys.prefix).resolve()), f"flex_judge comes from {origin}"
            detail.append(f"flex_judge {flex_judge.__version__}")

    @contextmanager
    def check(self, name: str) -> Iterator[list[str]]:
        """Run a block as a check. Any exception in it is a failure.

        Yields:
            A list for details of the check, which are printed with it.
        """
        detail: list[str] = []
        ok = True
        try:
            yield detail
        except Exception:  # noqa: BLE001 - a driver reports every failure, and runs its other checks
            ok = False
            detail.append(traceback.format_exc())
        self._failed += not ok
        print(json.dumps({"check": name, "ok": ok, "detail": "; ".join(detail)}), flush=True)

    def finish(self) -> None:
        """End the process: with status 1 if a check failed. Threads and workers of the trainer do not delay it."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if self._failed else 0)
