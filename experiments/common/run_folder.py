"""Run folder: records the settings of a run, is locked by the process that works in it, and gets a page."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.command_line import get_command
from flex_judge.experiments.common.console import print_status
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_text

START_FILES = ("run.json", ".lock", "engines.log")
"""Files that a start writes before there is a result."""
MAX_STOPPED_BYTES = 64 * 1024**2
"""Size of the result files up to which a stopped run writes its page: a stop must not take long."""


class RunFolder:
    """Output folder of a run. Opening it with equal settings resumes the run; other settings are an error.

    Example:
        >>> with RunFolder(Path("runs/demo"), {"seed": 0}) as folder, folder.time_phase("work"):
        ...     ...
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        flag: str = "--out",
        kind: str = "",
        derived: Collection[str] = (),
    ) -> None:
        """Describe a run folder; entering it locks it.

        Args:
            path: the folder.
            settings: settings that determine the results of the run.
            flag: name of the folder's flag in error messages.
            kind: command or study that the run belongs to, which decides about its page; empty for a run without one.
            derived: names of files in the folder that are no results, apart from `START_FILES`; the same names in
                subfolders are.
        """
        self.path = path
        self.kind = kind
        self._flag = flag
        self._no_results = {path / name for name in derived}
        self._state: dict[str, Any] = {}
        self._is_finished = False
        self.settings = dict(settings)
        self.seconds: dict[str, float] = {}
        """Seconds spent in each phase over all starts of the run; phases can overlap."""
        self._start = time.monotonic()
        self._earlier_seconds = 0.0

    def __enter__(self) -> RunFolder:
        # Before the folder is created or locked, so that an error leaves no traces.
        self.check_settings()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as e:
            raise UsageError(f"{self.path}: cannot be written: {e.strerror}; choose another {self._flag}") from e
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._lock.close()
            raise UsageError(
                f"{self.path} is in use by another process; wait for it or choose another {self._flag}"
            ) from e
        self._save_state()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._is_finished = kind is None
            self._save_state()
            if self.kind:
                # The record of a training is a subfolder of the model, which holds the checkpoints.
                logs = self.path.parent.glob("checkpoint-*/trainer_state.json")
                tables = [*self.path.glob("**/*.jsonl"), *logs]
                write_page(self.path, tables, is_stopped=kind is not None)
        finally:
            self._lock.close()

    def expect_rows(self, count: int, noun: str) -> None:
        """Record how many rows the run has, so that the page of an unfinished run can say how many are left.

        Args:
            count: number of rows.
            noun: what a row is, in the singular: `prompt`, `judgment`.
        """
        self._state["expected"] = {"count": count, "noun": noun}
        self._save_state()

    @contextmanager
    def time_phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            # Saved even after an error, so that the time of interrupted starts counts.
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 1)
            self._save_state()

    @property
    def total_seconds(self) -> float:
        """Seconds spent on the run over all its starts."""
        return round(self._earlier_seconds + time.monotonic() - self._start, 1)

    def check_settings(self) -> None:
        """Check that the folder is new, or holds a run with these settings; nothing is written.

        Raises:
            UsageError: it holds another run or other files, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; give a folder with {self._flag}")
        file = self.path / "run.json"
        if not file.exists():
            # A lone lock file is left by a start that failed before it wrote run.json.
            if self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
                raise UsageError(f"{self.path} holds files but no run; choose another {self._flag}")
            return
        has_results = self._has_results()
        try:
            run = json.loads(file.read_text(encoding="utf-8"))
            recorded = run["settings"]
            if not has_results and recorded != self.settings:
                return  # of a start that failed: whoever mends a setting can use the folder again
            self._state = {name: run[name] for name in ("expected", "command") if name in run}
            self.seconds, self._earlier_seconds = run["seconds"], run["total_seconds"]
        except (ValueError, KeyError, TypeError) as e:
            if not has_results:
                return
            raise UsageError(f"{file} is broken; delete {self.path} or choose another {self._flag}") from e
        for name in sorted(set(recorded) | set(self.settings)):
            if recorded.get(name) != self.settings.get(name):
                raise UsageError(
                    f"{self.path} holds a run with {name} = {recorded.get(name)!r}, not {self.settings.get(name)!r}; "
                    f"use the same settings to resume it, or choose another {self._flag}"
                )

    def _has_results(self) -> bool:
        """Whether the folder holds anything but the records that every start writes."""
        files = (path for path in self.path.rglob("*") if path.name not in START_FILES and path.is_file())
        return any(path.stat().st_size for path in files if path not in self._no_results)

    def _save_state(self) -> None:
        # A run that is continued from Python keeps the command that started it.
        self._state |= {"command": get_command()} if get_command() else {}
        state = {
            "settings": self.settings,
            "seconds": self.seconds,
            "total_seconds": self.total_seconds,
            **({"kind": self.kind} if self.kind else {}),
            "is_finished": self._is_finished,
            **self._state,
        }
        write_text(self.path / "run.json", dump_json(state, indent=2) + "\n")


def write_page(run: Path, tables: Sequence[Path], *, is_stopped: bool) -> None:
    """Write the page of a run that has ended. A stopped run gets one if that is quick, and a line with its path.

    Never raises: the page can be written again, and must not replace the reason of a stop.

    Args:
        run: folder of the run, or its file of judgments.
        tables: result files that the page is made from.
        is_stopped: whether the run ended before it was finished.
    """
    if is_stopped and not (size := sum(path.stat().st_size for path in tables if path.is_file())):
        return
    try:
        # Imported only at the end of a run, because pages need more modules than runs.
        from flex_judge.experiments.common.reporting import pages

        if not is_stopped:
            pages.write_page(run)
            return
        if size > MAX_STOPPED_BYTES:
            text = f"for a page of the unfinished run: flex-judge report {run}"
        else:
            text = f"page of the unfinished run: {pages.write_page(run)}"
    except Exception as e:  # noqa: BLE001 - the results are on the disk
        text = f"no page was written: {to_one_line(e)}; try: flex-judge report {run}"
    print_status(to_one_line(text))
