"""`flex-judge eval suite NAME`: run several benchmarks with one judge, for one table with published results.

Each benchmark has its own run folder in the folder of the suite and can be resumed, also by `flex-judge eval NAME`.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks import BENCHMARKS
from flex_judge.experiments.benchmarks.data import MissingDataError
from flex_judge.experiments.benchmarks.suites import SUITES, FileLocations
from flex_judge.experiments.commands.eval.config import DATA, LEDGER, EvalFlags, EvalRun, out_setting
from flex_judge.experiments.commands.eval.engines import SharedEngine
from flex_judge.experiments.commands.eval.run import build_run_folder, execute_run, prepare_run
from flex_judge.experiments.commands.eval.suite_entries import (
    SUMMARY,
    SuiteEntry,
    find_done_benchmarks,
    load_earlier_entry,
)
from flex_judge.experiments.commands.eval.suite_table import (
    DONE,
    FAILED,
    NO_DATA,
    NOT_SELECTED,
    WAITING,
    build_rows,
    describe_state,
)
from flex_judge.experiments.common.console import print_status
from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.errors import JudgeError, UsageError, suggest_name, to_one_line
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import SURROGATES, write_text
from flex_judge.judges.io.storage import explain_write_errors, find_storage_error
from flex_judge.judges.models import identify_model
from flex_judge.judges.validation.classes import settings_class
from flex_judge.judges.validation.flat import build_settings, flatten_settings

LOG = "engines.log"
_DERIVED = (SUMMARY, "report.html", LEDGER)
"""Files of the suite, which are no results as long as no benchmark has one in its folder."""
_OWN = ("data", "replay", "only", "out")
"""Settings of the suite that each benchmark has in another form."""
_NO_RESULT = (
    *("judge_key", "limit", "runs", "replicas", "address", "start_timeout_s", "concurrency", "max_batch"),
    *("max_failures", "model", "adapter"),
)
"""Settings that a resumed suite may change, and those whose content is part of the identity instead of their name."""


@settings_class(kw_only=True)
class SuiteRun(EvalFlags):
    """Settings of a run of several benchmarks. Those of the judge replace the published settings of every benchmark."""

    data: tuple[str, ...] = setting(
        (),
        "Folder with the data of each benchmark under its name (FOLDER/llmbar/, FOLDER/pandalm.json), or NAME=PATH for "
        "one benchmark, with PATH as in eval NAME --data; may be repeated",
        metavar="FOLDER|NAME=PATH",
        group=DATA,
    )
    only: tuple[str, ...] = setting(
        (),
        "Benchmark of the suite to run; may be repeated (default: all)",
        metavar="NAME",
        group=DATA,
    )
    replay: tuple[str, ...] = setting(
        (),
        "Stored replies to score instead of running a model: folder with a file NAME.jsonl for each benchmark, or "
        "NAME=FILE, with FILE as in eval NAME --replay; may be repeated",
        metavar="FOLDER|NAME=FILE",
        group=DATA,
    )
    out: str | None = out_setting("suite-NAME")


def run_suite(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Start or resume a suite.

    Missing data and errors of one benchmark cost that benchmark only.

    Args:
        name: Name of the suite.
        values: Settings that the user gave; each benchmark has its published settings for the others.

    Returns:
        The summary, as written to `summary.json`: a row for each benchmark and task, and the state of each benchmark.

    Raises:
        UsageError: A setting is wrong, the judge does not exist, or no benchmark can be run; nothing was started.
    """
    return _SuiteRun(name, values).execute()


class _SuiteRun:
    """Run of a suite: checks all benchmarks, then runs one after the other."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.config = config = build_settings(SuiteRun, values, format_flag)
        members = SUITES[name].benchmarks
        for selected in config.only:
            if selected not in members:
                raise UsageError(f"--only {selected}: not in the suite {name}; {suggest_name(selected, members)}")
        self.data = FileLocations.from_arguments("--data", config.data, BENCHMARKS)
        self.replay = FileLocations.from_arguments("--replay", config.replay, BENCHMARKS, takes_folders=False)
        out = config.out or (None if config.replay else f"runs/eval-suite-{name}")
        self.out = Path(out) if out else None
        self.log: Path | None = None
        """File for tracebacks, once the folder is open."""
        self.settings = {name: value for name, value in values.items() if name not in _OWN}
        self.entries = {
            member: SuiteEntry(NOT_SELECTED if config.only and member not in config.only else WAITING)
            for member in members
        }
        self.configs = {
            member: self._build_config(member) for member, entry in self.entries.items() if entry.state == WAITING
        }

    def execute(self) -> dict[str, Any]:
        """Run the suite and return its summary."""
        folder: RunFolder | None = None
        if self.out:
            folder = RunFolder(self.out, self._build_identity(), kind="suite", derived=_DERIVED)
            folder.check_settings()
        if not self.config.replay:
            # One judge for all benchmarks: if it cannot be used, none of them can.
            next(iter(self.configs.values())).check_models()
        problems = self._check_data()
        if len(problems) == len(self.configs):
            self._leave_out_all(problems)
            raise UsageError(f"no benchmark of the suite {self.name} can be run, for the reasons above")
        with folder or nullcontext():
            if folder:
                self.log = folder.path / LOG
                self._load_earlier_results(folder.path)
            self._leave_out_all(problems)
            engines = SharedEngine((self.out or Path()).resolve() / LEDGER)
            try:
                for member in (name for name in self.configs if name not in problems):
                    self._write_summary(folder)
                    self._run_benchmark(member, engines)
            finally:
                engines.close()
            return self._write_summary(folder)

    def _build_config(self, member: str) -> EvalRun:
        protocol = BENCHMARKS[member].spec.protocol
        files = {"data": self.data.find_files(member), "out": str(self.out / member) if self.out else None}
        replies = self.replay.find_files(member)
        if len(replies) > 1:
            raise UsageError(f"--replay: {member} has {len(replies)} files of replies; name one")
        files["replay"] = replies[0] if replies else None
        config = build_settings(EvalRun, {**protocol, **self.settings, **files}, format_flag)
        config.check_service(protocol, own=("seed",))
        if self.config.replay:
            config.check_replay(protocol)
            config.list_reply_formats((), others=False)
        elif config.replay_format:
            raise UsageError("--replay-format needs --replay; add it, or leave out --replay-format")
        return config

    def _build_identity(self) -> dict[str, Any]:
        """Build the settings of the judge; those of the data belong to the folder of each benchmark."""
        declared = flatten_settings(SuiteRun)
        published = {name for member in self.entries for name in BENCHMARKS[member].spec.protocol}
        # A default that a user spells out is the same setting, unless it replaces published settings.
        settings = {
            name: value
            for name, value in self.settings.items()
            if name not in _NO_RESULT and (name in published or value != declared[name].default)
        }
        engine = self.config.engine_config
        if self.config.judge_url is None and not self.config.replay:
            settings |= {"judge": identify_model(engine.model), "adapter": identify_model(engine.adapter)}
        if self.config.replay:
            settings["limit"] = self.config.limit  # the folder of a replay holds the results of one limit
        return {"suite": self.name, "replay": list(self.config.replay), **settings}

    def _check_data(self) -> dict[str, Exception]:
        """Read the data of every benchmark, so that missing ones are known before anything starts.

        Returns:
            Benchmarks that cannot be run, with the error.

        Raises:
            UsageError: The run folder of a benchmark holds the results of other data or settings.
        """
        problems: dict[str, Exception] = {}
        for member, config in self.configs.items():
            try:
                if not config.data and not BENCHMARKS[member].spec.hub:
                    raise MissingDataError(self.data.describe_missing(member))
                if self.config.replay and not config.replay:
                    raise UsageError(self.replay.describe_missing(member))
                prepared = prepare_run(BENCHMARKS[member], config)
            except Exception as e:  # noqa: BLE001 - a broken release costs its benchmark only
                _raise_storage_error(e)
                problems[member] = e
                continue
            if self.out:
                build_run_folder(prepared).check_settings()
        return problems

    def _run_benchmark(self, member: str, engines: SharedEngine) -> None:
        benchmark, config = BENCHMARKS[member], self.configs[member]
        try:
            if config.judge_url is not None:
                config.check_models()  # a service that has ended must not cost the time of all retries again
            # Read again: the data of all benchmarks together may not fit into memory.
            summary = execute_run(prepare_run(benchmark, config), engines, f"judging {member}")
        except Exception as e:  # noqa: BLE001 - an error costs its benchmark only
            _raise_storage_error(e)
            self._leave_out(member, FAILED, e, "; the same command resumes it")
            return
        self.entries[member] = SuiteEntry.from_summary(benchmark, summary)

    def _leave_out_all(self, problems: Mapping[str, Exception]) -> None:
        for member, error in problems.items():
            origin = f"; get the data from {BENCHMARKS[member].spec.origin}, and give --data {member}=PATH"
            self._leave_out(member, NO_DATA, error, origin if isinstance(error, MissingDataError) else "")

    def _leave_out(self, member: str, state: str, error: Exception, hint: str) -> None:
        entry = self.entries[member]
        if isinstance(error, JudgeError | OSError):
            reason = to_one_line(error) + hint
        else:
            reason = f"{to_one_line(f'{type(error).__name__}: {error}')}{hint}{self._record_traceback(member, error)}"
        line = describe_state(member, {"state": state, "reason": reason})
        print_status(line)
        if entry.state == DONE:
            entry.reason = f"{line.removeprefix(f'{member}: ')}; its rows are of an earlier start"
        else:
            entry.state, entry.reason = state, reason

    def _record_traceback(self, member: str, error: Exception) -> str:
        """Write the traceback of an unexpected error, and return where it is, as the end of a message."""
        text = "".join(traceback.format_exception(error))
        if self.log is None:
            print_status(f"{member}: {text}")
            return ""
        with explain_write_errors(self.log), self.log.open("a", encoding="utf-8", errors=SURROGATES) as file:
            file.write(f"{member}: {text}")
        return f"; the traceback is in {self.log}"

    def _load_earlier_results(self, folder: Path) -> None:
        """Keep the results of earlier starts until this start has newer ones."""
        for member in self.entries.keys() & find_done_benchmarks(folder):
            settings = {"runs": 1, **BENCHMARKS[member].spec.protocol, **self.settings}
            earlier = load_earlier_entry(BENCHMARKS[member], folder / member, settings)
            self.entries[member] = earlier or self.entries[member]

    def _write_summary(self, folder: RunFolder | None) -> dict[str, Any]:
        for member, entry in self.entries.items():
            if entry.state != DONE:
                entry.rows = build_rows(BENCHMARKS[member], None, entry.reason or entry.state)
        judges = [entry.judge for entry in self.entries.values() if entry.judge]
        summary: dict[str, Any] = {
            "suite": self.name,
            "about": SUITES[self.name].about,
            "judge": judges[0] if judges else self.config.judge_url or self.config.engine_config.model,
            "replay": list(self.config.replay),
            "out": str(self.out) if self.out else None,
            "selected": list(self.configs),
            "rows": [row for entry in self.entries.values() if entry.state != NOT_SELECTED for row in entry.rows],
            "benchmarks": {member: asdict(entry) for member, entry in self.entries.items()},
        }
        if folder:
            summary["seconds"] = {"total": folder.total_seconds}
            write_text(folder.path / SUMMARY, dump_json(summary, indent=2) + "\n")
        return summary


def _raise_storage_error(error: Exception) -> None:
    """Raise the StorageError behind an error, if there is one: a full disk concerns every benchmark."""
    if (storage_error := find_storage_error(error)) is not None:
        raise storage_error from error


def describe_suites() -> str:
    """Describe the suites and the layout of their data, for the help."""
    suites = ". ".join(f"{name}: {', '.join(suite.benchmarks)}" for name, suite in SUITES.items())
    hub = [name for name, benchmark in BENCHMARKS.items() if benchmark.spec.hub]
    return (
        f"Suites: {suites}. Data: with --data FOLDER, FOLDER/NAME/ is the folder that eval NAME --data takes, or "
        f"FOLDER/NAME.json (.jsonl, .csv, .parquet) its file; --data NAME=PATH names them one by one. By default, "
        f"{', '.join(hub)} are read from the hub. A benchmark without data is left out, with a line that says where to "
        f"get them ({format_count(len(BENCHMARKS), 'benchmark')} in all; see eval NAME --help). The judge is loaded "
        "once; with --replicas or --address, its replicas start anew for each benchmark."
    )
