"""`flex-judge curate`: turn a teacher's judgments of rows into training examples for a judge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import Journal, write_lines, write_text
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.rubrics import load_rubric

JUDGMENTS = "judgments.jsonl"


def main(config: CurateRun, file: str | None) -> dict[str, Any]:
    """Start or resume a run; stored judgments of the teacher are reused, also with other settings of the curation.

    Args:
        config: Settings of the run.
        file: Rows in the format of JudgeLM-100K, see `flex_judge.alignment.data.sources.open_source`; None with
            `--samples`.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: Bad input; nothing was started.
        EngineLostError: The teacher died. Finished judgments are saved, and the same command resumes the run.
    """
    source, all_rows, all_faults = _load_rows(config, file)
    last_row = len(source) if config.rows is None else config.rows
    rows = [row for row in all_rows if row.row <= last_row]
    faults = [fault for fault in all_faults if fault.row <= last_row]
    if not rows:
        raise UsageError(f"{source.name}: none of {len(faults)} rows can be used; the first: {faults[0].detail}")
    rubrics = TrainingRubrics.from_names(config.rubrics_by_scale, config.reason_first)
    benchmarks = ContaminationFilter.from_files(config.benchmark) if config.benchmark else None
    out = Path(config.out)
    work = _TeacherWork(config, rows, all_rows, out / JUDGMENTS)
    if not config.is_synthetic and not work.path.exists():
        # Checked before the folder is created. With stored judgments a missing teacher may not be needed.
        check_judge(config.build_teacher_run(None))
    with RunFolder(out, config.build_identity(source.name, source.digest), kind="curate") as folder:
        folder.expect_rows(len(rows) * work.samples_per_row, "judgment")
        with redirect_libraries(out / "engines.log") as console, Progress(console) as progress:
            tokenizer_name = config.find_tokenizer_name()
            tokens = TokenCounter.from_name(tokenizer_name)
            with folder.time_phase("judging"):
                teacher_output = work.collect_examples(tokens, progress)
            # Repeated in every run, because its settings may change and it takes seconds.
            with folder.time_phase("curation"):
                curating = progress.start_phase("curating")
                curated = CurationPipeline(_build_steps(config, tokens, benchmarks))(teacher_output.examples)
                selected = select_examples(curated.examples, config.selection, tokens)
                _write_results(out, rubrics, selected, [*faults, *teacher_output.dropped, *curated.dropped])
                progress.end_phase(curating)
        summary = {
            **folder.settings,
            "teacher": next((example.teacher for example in teacher_output.examples), folder.settings["teacher"]),
            "synthetic": config.is_synthetic,
            "samples_per_row": work.samples_per_row,
            "rubrics": config.rubrics_by_scale,
            "tokenizer": tokenizer_name,
            "curation": config.describe_curation(),
            **summarise_curation(faults, len(rows), teacher_output, curated.step_counts, selected),
            # `datasets` caches a folder by its card, so a card with a digest is never mistaken for an older one.
            "digest": compute_content_digest(out / name for name in SPLITS.values() if (out / name).exists()),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(out / "README.md", render_card(summary))
        write_text(out / "summary.json", dump_json(summary, indent=2) + "\n")
        return summary


def _build_steps(
    config: CurateRun, tokens: TokenCounter, benchmarks: ContaminationFilter | None
) -> tuple[CurationStep, ...]:
    """Build the steps of the curation, cheapest first."""
    return (
        AgreementFilter(config.tolerance),
        ForgedTagFilter(tokens.control_tokens),
        *([benchmarks] if benchmarks else []),
        LongestReplyFilter(),
        NearDuplicateFilter(config.similarity_limit),
    )


def _write_results(
    out: Path, rubrics: TrainingRubrics, selected: SelectionResult, dropped: Sequence[DropRecord]
) -> None:
    """Write the examples and the dropped rows, after deleting all files of an earlier curation."""
    for name in ("summary.json", "README.md", *SPLITS.values()):
        (out / name).unlink(missing_ok=True)
    for split, name in SPLITS.items():
        # `datasets` cannot load an empty file, so an empty split has none.
        if examples := getattr(selected, split):
            write_lines(out / name, map(rubrics.to_row, examples))
    write_lines(out / "dropped.jsonl", (record.to_json() for record in sorted(dropped, key=lambda record: record.row)))


def compute_exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """Return 1 if more rows than `max_failures` have no judgment or there is no training example, else 0."""
    return int(summary["rows_lost"] > max_failures or not summary["samples"]["train"])


def _load_rows(config: CurateRun, file: str | None) -> tuple[Source, list[ReferenceRow], list[DropRecord]]:
    """Load the source, its usable rows, and a record of each row that cannot be used."""
    name = config.samples if file is None else file
    if name is None:
        raise UsageError("curate takes a FILE of rows, or --samples FILE with --teacher synthetic")
    if config.samples is not None and file is not None:
        raise UsageError("curate takes either a FILE of rows or --samples, not both")
    source = open_source(name)
    rows: Sequence[ReferenceRow | DropRecord]
    if config.samples is None:
        rows = [_drop_unused_listwise(config, row) for row in read_reference_rows(source, columns=config.columns)]
    else:
        # Limited here, because the mix of kinds and winners is balanced over the rows that are used.
        limited = source if config.rows is None else FirstRows(source, config.rows)
        rows = build_task_rows(limited, config.order_seed, config.listwise_answers if config.examples.listwise else 0)
    usable = [row for row in rows if isinstance(row, ReferenceRow)]
    return source, usable, [row for row in rows if isinstance(row, DropRecord)]


def _drop_unused_listwise(config: CurateRun, row: ReferenceRow | DropRecord) -> ReferenceRow | DropRecord:
    """Drop a row with more than two answers if no listwise examples are requested, so that it is not judged."""
    if isinstance(row, DropRecord) or len(row.answers) == 2 or config.examples.listwise:
        return row
    return DropRecord(
        row.row, RowFault.MORE_ANSWERS, f"{row.where}: {len(row.answers)} answers; use --listwise N to include it"
    )


def _check_reading_order(url: str, judgments: Sequence[Judgment]) -> None:
    """Check that a service reads responses as given: the reasoning of an example names them by their places.

    Raises:
        UsageError: it does not.
    """
    if any(vote.order != tuple(sorted(vote.order)) for judgment in judgments for vote in judgment.votes[:1]):
        raise UsageError(f"{url}: the service reads responses in another order; restart it with --order as_given")


@dataclass(frozen=True)
class _TeacherWork:
    """Judgments of the teacher: stored and missing ones."""

    config: CurateRun
    rows: Sequence[ReferenceRow]
    """Rows of this run."""
    all_rows: Sequence[ReferenceRow]
    """All rows of the source; earlier runs may have judged others than this one."""
    path: Path
    """File of the judgments."""

    @property
    def samples_per_row(self) -> int:
        """Number of judgments per row."""
        return 1 if self.config.is_synthetic else self.config.seeds

    def collect_examples(self, tokens: TokenCounter, progress: Progress) -> TeacherOutput:
        """Judge what is missing and return the training examples. The caller must hold the lock of the run folder."""
        if self.config.is_synthetic:
            return judge_with_program(self.rows, tokens)
        # The samples of a row are adjacent, so that an engine with a prefix cache computes their prompt once.
        teacher_rows = [
            TeacherRow(row, sample_index, self.config.rubric_name)
            for row in self.rows
            for sample_index in range(self.samples_per_row)
        ]
        judgments, errors = self._load_stored_judgments(), dict[str, str]()
        if any(row.id not in judgments or not judgments[row.id].status.is_final for row in teacher_rows):
            run = self.config.build_teacher_run(str(self.path.with_name("teacher.ledger")))
            check_judge(run)
            teacher_rows += self._find_other_stored_rows(judgments, {row.id for row in teacher_rows})
            with open_judgment_file(self.path, {row.id for row in teacher_rows}) as output:
                result = judge_rows(run, teacher_rows, output, progress)
            judgments, errors = {judgment.id: judgment for judgment in result.judgments}, result.errors
            if run.judge_url is not None:
                _check_reading_order(run.judge_url, result.judgments)
        rubric = load_rubric(self.config.rubric_name)
        return convert_judgments(self.rows, judgments, self.samples_per_row, rubric, tokens, errors)

    def _load_stored_judgments(self) -> dict[str, Judgment]:
        """Load the judgments of earlier runs, by id."""
        if not self.path.exists():
            return {}
        with Journal(self.path) as journal:
            return {judgment_id: Judgment.from_json(row) for judgment_id, row in journal.rows.items()}

    def _find_other_stored_rows(
        self, judgments: Mapping[str, Judgment], requested: Collection[str]
    ) -> list[TeacherRow]:
        """Find stored judgments of rows and samples that this run does not request.

        The judgment file keeps only rows of the run, so these join the run. They are stored and cost nothing.
        """
        rows = {row.id: row for row in self.all_rows}
        other_rows = []
        for judgment_id in judgments:
            parsed = parse_judgment_id(judgment_id) if judgment_id not in requested else None
            if parsed is not None and parsed[0] in rows:
                row_id, sample_index = parsed
                other_rows.append(TeacherRow(rows[row_id], sample_index, self.config.rubric_name))
        return other_rows
