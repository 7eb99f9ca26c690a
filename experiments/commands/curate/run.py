"""`flex-judge curate`: a teacher's judgments of rows, turned into what a judge is trained on."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.benchmarks import ContaminationFilter
from flex_judge.alignment.curation.card import SPLITS, render_card
from flex_judge.alignment.curation.duplicates import NearDuplicateFilter
from flex_judge.alignment.curation.formats import TrainingRubrics
from flex_judge.alignment.curation.rows import DropRecord, ReferenceRow, RowFault, read_reference_rows
from flex_judge.alignment.curation.selection import SelectionResult, select_examples
from flex_judge.alignment.curation.stats import summarise_curation
from flex_judge.alignment.curation.steps import (
    AgreementFilter,
    CurationPipeline,
    CurationStep,
    ForgedTagFilter,
    LongestReplyFilter,
)
from flex_judge.alignment.curation.task_rows import build_task_rows
from flex_judge.alignment.curation.teacher import (
    TeacherOutput,
    TeacherRow,
    convert_judgments,
    judge_with_program,
    parse_judgment_id,
)
from flex_judge.alignment.curation.tokens import TokenCounter
from flex_judge.alignment.data.folders import compute_content_digest
from flex_judge.alignment.data.sources import FirstRows, Source, open_source
from flex_judge.experiments.commands.curate.config import CurateRun
from flex_judge.experiments.commands.judge.output import open_judgment_file
from flex_judge.experiments.commands.judge.run import check_judge, judge_rows
from flex_judge.experiments.common.console import build_progress, redirect_libraries
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import Journal, write_lines, write_text
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.rubrics import load_rubric

if TYPE_CHECKING:
    from rich.progress import Progress

JUDGMENTS = "judgments.jsonl"


def main(config: CurateRun, file: str | None) -> dict[str, Any]:
    """Run, or go on with a run. What the teacher judged before is not judged again, however it is curated.

    Args:
        file: rows as JudgeLM-100K has them, see `flex_judge.alignment.data.sources.open_source`; None where there
        are samples.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
        EngineLostError: the teacher died. What it judged is kept, and the same run goes on from there.
    """
    source, every, faults = _load_rows(config, file)
    most = len(source) if config.rows is None else config.rows
    rows, bad = [row for row in every if row.row <= most], [row for row in faults if row.row <= most]
    if not rows:
        raise UsageError(f"{source.name}: none of {len(bad)} rows can be used; the first: {bad[0].detail}")
    rubrics = TrainingRubrics.from_names(config.rubrics_by_scale, config.reason_first)
    benchmarks = ContaminationFilter.from_files(config.benchmark) if config.benchmark else None
    out = Path(config.out)
    work = _TeacherWork(config, rows, every, out / JUDGMENTS)
    if not config.is_synthetic and not work.path.exists():
        check_judge(config.build_teacher_run(None))
    with RunFolder(out, config.build_identity(source.name, source.digest)) as folder:
        with redirect_libraries(out / "engines.log") as console, build_progress(console) as progress:
            tokens = TokenCounter.from_name(config.tokenizer_name)
            with folder.time_phase("judging"):
                taught = work.collect_examples(tokens, progress)
            with folder.time_phase("curation"):
                bar = progress.add_task("curating", total=1)
                curated = CurationPipeline(_build_steps(config, tokens, benchmarks))(taught.examples)
                chosen = select_examples(curated.examples, config.selection, tokens)
                _write_results(out, rubrics, chosen, [*bad, *taught.dropped, *curated.dropped])
                progress.advance(bar)
        summary = {
            **folder.settings,
            "teacher": next((example.teacher for example in taught.examples), folder.settings["teacher"]),
            "synthetic": config.is_synthetic,
            "samples_per_row": work.samples_per_row,
            "rubrics": config.rubrics_by_scale,
            "tokenizer": config.tokenizer_name,
            "curation": config.describe_curation(),
            **summarise_curation(bad, len(rows), taught, curated.passed, chosen),
            "digest": compute_content_digest(out / name for name in SPLITS.values() if (out / name).exists()),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(out / "README.md", render_card(summary))
        write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def _build_steps(
    config: CurateRun, tokens: TokenCounter, benchmarks: ContaminationFilter | None
) -> tuple[CurationStep, ...]:
    """What judgments pass through, the cheapest first."""
    return (
        AgreementFilter(config.tolerance),
        ForgedTagFilter(tokens.control_tokens),
        *([benchmarks] if benchmarks else []),
        LongestReplyFilter(),
        NearDuplicateFilter(config.similarity_limit),
    )


def _write_results(out: Path, rubrics: TrainingRubrics, chosen: SelectionResult, dropped: Sequence[DropRecord]) -> None:
    """Write the samples, and what was dropped. No file of an earlier curation stays beside one of this."""
    for name in ("summary.json", "README.md", *SPLITS.values()):
        (out / name).unlink(missing_ok=True)
    for split, name in SPLITS.items():
        if examples := getattr(chosen, split):  # an empty file is none that can be loaded
            write_lines(out / name, map(rubrics.to_row, examples))
    write_lines(out / "dropped.jsonl", (one.to_json() for one in sorted(dropped, key=lambda one: one.row)))


def get_exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """0, or 1 where the teacher lost more rows than `max_failures`, or nothing is left to train on."""
    return int(summary["rows_lost"] > max_failures or not summary["samples"]["train"])


def _load_rows(config: CurateRun, file: str | None) -> tuple[Source, list[ReferenceRow], list[DropRecord]]:
    """The source, its rows, and what is wrong with those that are none."""
    name = config.samples if file is None else file
    if name is None:
        raise UsageError("curate takes a FILE of rows, or --samples FILE with --teacher synthetic")
    if config.samples is not None and file is not None:
        raise UsageError("curate takes either a FILE of rows or --samples, not both")
    source = open_source(name)
    if config.samples is None:
        found = [_drop_unused_listwise(config, row) for row in read_reference_rows(source)]
    else:  # the mix is of the rows that are taken
        taken = source if config.rows is None else FirstRows(source, config.rows)
        found = build_task_rows(taken, config.order_seed, config.listwise_answers if config.examples.listwise else 0)
    good = [row for row in found if isinstance(row, ReferenceRow)]
    return source, good, [row for row in found if isinstance(row, DropRecord)]


def _drop_unused_listwise(config: CurateRun, row: ReferenceRow | DropRecord) -> ReferenceRow | DropRecord:
    """A row, or that it is for listwise examples and there are to be none: a teacher would judge it for nothing."""
    if isinstance(row, DropRecord) or len(row.answers) == 2 or config.examples.listwise:
        return row
    return DropRecord(
        row.row, RowFault.MORE_ANSWERS, f"{row.where}: {len(row.answers)} answers; --listwise N makes use of it"
    )


@dataclass(frozen=True)
class _TeacherWork:
    """What the teacher has to do, and has done."""

    config: CurateRun
    rows: Sequence[ReferenceRow]
    """Those to be judged."""
    every: Sequence[ReferenceRow]
    """All rows of the source: earlier runs may have judged others."""
    path: Path
    """Of the judgments."""

    @property
    def samples_per_row(self) -> int:
        return 1 if self.config.is_synthetic else self.config.seeds

    def collect_examples(self, tokens: TokenCounter, progress: Progress) -> TeacherOutput:
        """The training examples, after what was missing has been judged. The folder must be this process's."""
        if self.config.is_synthetic:
            return judge_with_program(self.rows, tokens)
        # The draws of a row follow each other, so that an engine with a prefix cache computes their prompt once.
        wanted = [
            TeacherRow(row, sample_index, self.config.rubric_name)
            for row in self.rows
            for sample_index in range(self.samples_per_row)
        ]
        judgments, lost = self._load_stored_judgments(), dict[str, str]()
        if any(row.id not in judgments or not judgments[row.id].status.is_final for row in wanted):
            run = self.config.build_teacher_run(str(self.path.with_name("teacher.ledger")))
            check_judge(run)
            wanted += self._find_other_stored_rows(judgments, {row.id for row in wanted})
            with open_judgment_file(self.path, {row.id for row in wanted}) as output:
                result = judge_rows(run, wanted, output, progress)
            judgments, lost = {judgment.id: judgment for judgment in result.judgments}, result.errors
        return convert_judgments(
            self.rows, judgments, self.samples_per_row, load_rubric(self.config.rubric_name), tokens, lost
        )

    def _load_stored_judgments(self) -> dict[str, Judgment]:
        """What earlier runs have judged, by id."""
        if not self.path.exists():
            return {}
        with Journal(self.path) as journal:
            return {name: Judgment.from_json(row) for name, row in journal.rows.items()}

    def _find_other_stored_rows(self, judgments: Mapping[str, Judgment], wanted: Collection[str]) -> list[TeacherRow]:
        """What is stored of other rows and draws: it stays in the file, and as it is there, is not judged again."""
        rows = {row.id: row for row in self.every}
        places = [parse_judgment_id(name) for name in judgments if name not in wanted]
        return [
            TeacherRow(rows[place[0]], place[1], self.config.rubric_name)
            for place in places
            if place is not None and place[0] in rows
        ]
