"""What the loop came to: accuracies before, by the judge's choice, and after tuning on it. Pure but for the reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from flex_judge.alignment.best_of_n.metrics import estimate
from flex_judge.alignment.tasks.arithmetic import is_right
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_rows


def looped(seeds: Sequence[Path], before: Path) -> dict[str, Any]:
    """The figures of a loop.

    Args:
        seeds: the folders of the runs, one for each seed.
        before: the greedy answers of the policy that all started from.

    Returns:
        `curve`: of best-of-N for each N, the mean over seeds and its deviation; `greedy`: the accuracy before and after
        tuning, and the difference, each with a 95 % interval over questions of the mean over seeds; `runs`: the same
        of each seed; `pairs`: what was tuned on.

    Raises:
        UsageError: a run measured other questions than the start.
    """
    start = _right(before)
    runs = []
    for folder in seeds:
        after = _right(folder / "greedy_after.jsonl")
        if start.keys() != after.keys():
            raise UsageError(f"{folder}: its questions are not those of {before}")
        runs.append(after)
    chosen = [json.loads((folder / "best_of_n" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    pairs = [json.loads((folder / "preferences" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    return {
        "curve": _curve([run["accuracies"] for run in chosen]),
        "curve_questions": chosen[0]["prompts"],
        "greedy": _gain(start, runs),
        "runs": [_gain(start, [run]) for run in runs],
        "pairs": [{"pairs": run["pairs"], "right": run["right"]} for run in pairs],
    }


def _right(file: Path) -> dict[str, float]:
    """Whether the answer to each question is right, as 0 or 1."""
    return {row["id"]: float(is_right(row["responses"][0], row["kept"]["answer"])) for row in read_rows(file)}


def _gain(start: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    after = {name: fmean(run[name] for run in runs) for name in start}
    return {
        "before": asdict(estimate(start.values())),
        "after": asdict(estimate(after.values())),
        "difference": asdict(estimate([after[name] - start[name] for name in start], shares=False)),
    }


def _curve(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of accuracies as best-of-N runs give them, the mean over runs and its deviation."""
    return {
        "random": _over([run["random"]["value"] for run in runs]),
        "best": {n: _over([run["best"][n]["value"] for run in runs]) for n in runs[0]["best"]},
        "any": {n: _over([run["any"][n]["value"] for run in runs]) for n in runs[0]["any"]},
    }


def _over(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else None, "values": list(values)}
