"""Page of a run of any command, finished or not."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.reporting.runs import RunRecord, read_run
from flex_judge.judges.errors import UsageError

_REPORT = "flex_judge.experiments.commands.report"
_STUDIES = "flex_judge.experiments.studies"
WRITERS = {
    "demo": f"{_REPORT}.run:write_demo_page",
    "eval": f"{_REPORT}.unfinished:write_evaluation_page",
    "suite": "flex_judge.experiments.commands.eval.suite_page:write_suite_page",
    "best-of-n": f"{_REPORT}.data_runs:write_best_of_n_page",
    "preferences": f"{_REPORT}.data_runs:write_preferences_page",
    "curate": f"{_REPORT}.curation:write_page",
    "sft": f"{_REPORT}.training:write_page",
    "dpo": f"{_REPORT}.training:write_page",
    "grpo": f"{_REPORT}.training:write_page",
    "arithmetic_loop": f"{_STUDIES}.arithmetic_loop.page:write_run_page",
    "grpo_curves": f"{_STUDIES}.grpo_curves.page:write_run_page",
    "pampa": f"{_STUDIES}.pampa.page:write_run_page",
}
"""Kind of a run -> module and function that write its page. Loaded by name, so that a page loads only what it needs."""
RECORDS = ("recipe", "evaluation")
"""Subfolders of a model folder that hold the run of a training."""


def write_page(path: Path) -> Path:
    """Write the page of a run folder, of a model folder with the record of its training, or of a file of judgments.

    Returns:
        The path of the page.

    Raises:
        UsageError: there is no run, or a file of it is invalid; the message names the file and the line.
    """
    # Parquet is written at the end; until then the judgments are in a journal next to it.
    if path.is_file() or path.with_name(path.name + ".jsonl").is_file():
        module = importlib.import_module(f"{_REPORT}.judge_file")
        page: Path = module.write_judgments_page(path)
        return page
    if not path.exists():
        raise UsageError(f"{path}: does not exist; name the folder of a run (--out), or a file of judgments")
    if not (path / "run.json").is_file():
        records = [path / name for name in RECORDS if (path / name / "run.json").is_file()]
        return write_run_page(records[0] if records else path)
    return write_run_page(path)


def write_run_page(folder: Path) -> Path:
    """Write `report.html` into the folder of a run.

    Returns:
        The path of the page.

    Raises:
        UsageError: the folder holds no run, or a file of the run is invalid.
    """
    record = _read_record(folder)
    kind = record.kind or find_kind(record.settings, folder)
    if kind not in WRITERS:
        raise UsageError(f"{folder / 'run.json'}: kind: expected one of {', '.join(WRITERS)}, got {kind!r}")
    module, _, function = WRITERS[kind].partition(":")
    page: Path = getattr(importlib.import_module(module), function)(record)
    return page


def _read_record(folder: Path) -> RunRecord:
    if (folder / "run.json").is_file() or not (folder / "summary.json").is_file():
        return read_run(folder)
    # A folder of results that was copied without its record.
    from flex_judge.judges.io.jsonl import read_object

    summary = read_object(folder / "summary.json")
    return RunRecord(folder=folder, kind="", settings=summary, seconds={}, total_seconds=0.0, summary=summary)


def find_kind(settings: Mapping[str, Any], folder: Path) -> str:
    """Find the kind of a run of a version that did not record it, from its settings; empty if it is unknown."""
    if "benchmark" in settings:
        return "eval"
    if "command" in settings:
        return str(settings["command"])
    if "teacher" in settings:
        return "curate"
    if "selection" in settings:
        return "best-of-n"
    if "rule" in settings:
        return "preferences"
    if "data_digest" in settings and "classes" in settings:
        return "pampa"
    if "held_out" in settings and "curve" in settings:
        return "arithmetic_loop"
    is_demo = "samples_per_prompt" in settings or {"policy", "judge", "prompts", "samples"} <= settings.keys()
    return "demo" if is_demo or (folder / "best_of_n.jsonl").is_file() else ""
