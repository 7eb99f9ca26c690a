"""`flex-judge best-of-n`: sample N answers to every prompt, judge them, keep the best."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignment.metrics import Graded, accuracies, best_scores
from alignment.scale.best_of_n import BestOfNPlan
from alignment.scale.parts import Report
from alignment.selection import METHODS, SelectionSpec
from alignment.tasks.arithmetic import is_right
from experiments.configs import check_least, setting
from experiments.console import libraries_to, progress_on
from experiments.data_config import DataFlags
from experiments.data_run import DataRun
from experiments.run_folder import RunFolder
from judges.errors import UsageError
from judges.journal import read_rows, write_text

TABLES = ("best_of_n", "judgments")


@dataclass(frozen=True)
class BestOfNRun(DataFlags):
    """Settings of a run."""

    out: str = setting(
        "runs/best-of-n", "folder for the results; a run that is there is resumed", metavar="DIR", group="results"
    )
    method: str = setting("pointwise", "how the best answer is found", choices=METHODS, group="how the best is found")
    halving_votes: int = setting(
        SelectionSpec.votes, "halving: judgments of one answer at most", metavar="K", group="how the best is found"
    )
    halving_budget: float = setting(
        SelectionSpec.budget,
        "halving: share of all those judgments that it may ask for",
        metavar="SHARE",
        group="how the best is found",
    )

    def __post_init__(self) -> None:
        check_least(self, {"halving_votes": 1})
        if self.method == "halving" and self.temperature == 0:
            raise UsageError("--method halving asks a judge again, which takes a --temperature above 0")
        super().__post_init__()

    def selection(self, file: str | None) -> SelectionSpec:
        return SelectionSpec(self.method, self.rubric_for(file), self.seed, self.halving_votes, self.halving_budget)


def main(config: BestOfNRun, file: str | None) -> dict[str, Any]:
    """Run, or go on with a run.

    Args:
        file: the prompts, see `alignment.sources.open_source`; None for the embedded task.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
    """
    source = config.source(file)
    config.check()
    selection = config.selection(file)
    identity = config.identity(source, file) | {"selection": repr(selection)}
    with RunFolder(Path(config.out), identity) as folder:
        with libraries_to(folder.path / "engines.log") as console, progress_on(console) as progress:
            sampling = config.sampling(file)
            run = DataRun(
                config,
                source,
                file,
                folder,
                lambda models: BestOfNPlan(models, sampling, config.samples, selection),
                config.samples,
                console,
                progress,
            )
            done = run.complete()
        with folder.phase("join"):
            for table in TABLES:
                done.join(table, folder.path / f"{table}.jsonl")
        return write_summary(folder, done.report, config.answer_for(file))


def write_summary(folder: RunFolder, report: Report, answer: str | None) -> dict[str, Any]:
    """Say what a finished run came to, in `summary.json`."""
    rows = list(map(_Seen.of, read_rows(folder.path / "best_of_n.jsonl"), itertools.repeat(answer)))
    chosen = [row for row in rows if row.best is not None]
    summary = {
        **folder.settings,
        "prompts": report.rows,
        "done": report.done,
        "lost": dict(report.lost),
        "without_a_winner": len(rows) - len(chosen),
        "tied": sum(row.tied > 1 for row in rows),
        "judgments": sum(row.judgments for row in rows),
        "statuses": dict(sum((row.statuses for row in rows), Counter())),
        "policy_tokens": sum(row.tokens for row in rows),
        "cut": sum(row.cut for row in rows),
        "accuracies": accuracies([row.graded for row in rows if row.graded]).to_json() if rows and answer else None,
        "mean_score_of_best": (
            {n: asdict(e) for n, e in best_scores([row.scores for row in rows]).items()} if chosen else None
        ),
        "seconds": {**folder.seconds, "total": folder.total_seconds},
    }
    write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


@dataclass(frozen=True)
class _Seen:
    """What the summary needs of a row."""

    best: int | None
    tied: int
    judgments: int
    statuses: Counter[str]
    tokens: int
    cut: int
    scores: tuple[float | None, ...]
    """Expected scores, and written ones where there are none."""
    graded: Graded | None

    @classmethod
    def of(cls, row: dict[str, Any], answer: str | None) -> _Seen:
        finer = zip(row["expected_scores"], row["scores"], strict=True)
        right = [is_right(response, row["kept"][answer]) for response in row["responses"]] if answer else []
        return cls(
            row["best"],
            row["tied"],
            row["judgments"],
            Counter(row["statuses"]),
            sum(row["tokens"]),
            sum(row["cut"]),
            tuple(score if expected is None else expected for expected, score in finer),
            Graded(tuple(row["ranking"]), tuple(right)) if answer else None,
        )
