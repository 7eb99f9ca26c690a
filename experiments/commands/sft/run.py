"""`flex-judge sft`: train a judge from a base model, evaluate it during training and summarize the run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training import evaluation as evaluations
from flex_judge.alignment.judge_training.card import JUDGE_METRICS, write_card
from flex_judge.alignment.judge_training.data import (
    FIELDS,
    JudgeTrainingData,
    TrainingRow,
    check_columns,
    find_held_out_file,
    find_train_file,
    read_training_rows,
)
from flex_judge.alignment.judge_training.trainer import HeldOutEvaluation
from flex_judge.alignment.judge_training.tuning import load_renderer, tune_judge
from flex_judge.alignment.policy_training.tuning import LOG_FILE
from flex_judge.experiments.commands.sft.view import print_judge_training
from flex_judge.experiments.common.ranks import Ranks
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.training.flags import TrainingFlags
from flex_judge.experiments.common.training.run import SUMMARY, TrainingRun, run_command
from flex_judge.experiments.common.training.settings import build_identity, collect_trl_settings
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_lines, write_text
from flex_judge.judges.protocol.rendering import Renderer

RECORD = "recipe"
"""Subfolder of the output folder for all files that are not part of the judge."""
DROPPED = "dropped.jsonl"
THINK_TOKENS_FACTOR = 1.5
"""Default thinking budget of an evaluation, relative to the longest reply of the training data."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status, see `run_command`."""
    return run_command("sft", argv, JudgeTraining, print_judge_training)


class JudgeTraining(TrainingRun):
    """One process (rank) of a run that trains a judge. The constructor reads the data.

    Raises:
        UsageError: The data are missing or do not fit the settings.
    """

    record = RECORD

    def __init__(self, flags: TrainingFlags, ranks: Ranks) -> None:
        super().__init__(flags, ranks)
        data, args = str(flags.data), flags.args
        batch = args.per_device_train_batch_size * ranks.count
        steps = flags.recipe.compute_accumulation_steps(batch)
        args.gradient_accumulation_steps = steps or args.gradient_accumulation_steps
        if args.max_length is None:
            raise UsageError(
                "--max_length is missing; give a length, because a truncated training example would lose its verdict"
            )
        renderer = load_renderer(flags.policy)
        file = find_train_file(data)
        self.columns = ColumnMapping.from_arguments(flags.recipe.column or (), FIELDS)
        rows = read_training_rows(file, self.columns)
        held_out_file, held_out_rows = self._read_held_out(data)
        check_columns(self.columns, {str(file): rows} | ({str(held_out_file): held_out_rows} if held_out_file else {}))
        self.examples = JudgeTrainingData.from_rows(str(file), rows, renderer, args.max_length)
        readable_rows = [row for row in rows if not isinstance(row, UsageError)]
        train_questions = {row["question"] for row in readable_rows if row.get("question") is not None}
        self.evaluation, self.held_out = self._load_evaluation(held_out_file, held_out_rows, renderer, train_questions)
        if self.evaluation is None and args.eval_strategy != "no":
            raise UsageError(
                f"{data}: has no held-out judgments for evaluations; name a file with --held-out, or add "
                "--eval_strategy no"
            )
        self._check_metric()

    def _read_held_out(self, data: str) -> tuple[Path | None, list[TrainingRow]]:
        recipe = self.flags.recipe
        file = None if recipe.held_out_rows == 0 else find_held_out_file(data, recipe.held_out)
        if file is None:
            return None, []
        return file, read_training_rows(file, self.columns, keeps_fields=True)[: recipe.held_out_rows]

    def _load_evaluation(
        self, file: Path | None, rows: Sequence[TrainingRow], renderer: Renderer, train_questions: Collection[str]
    ) -> tuple[HeldOutEvaluation | None, JudgeTrainingData | None]:
        recipe, args = self.flags.recipe, self.flags.args
        if file is None:
            return None, None
        held_out = JudgeTrainingData.from_rows(str(file), rows, renderer, args.max_length)
        if held_out.dropped:
            first = held_out.dropped[0]
            raise UsageError(f"{file}, row {first.row}: {first.reason}: {first.detail}; fix or remove the row")
        readable_rows = [row for row in rows if not isinstance(row, UsageError)]  # all, or there is a dropped one
        # An evaluation on questions of the training data would reward memorizing.
        if shared := [row["question"] for row in readable_rows if row.get("question") in train_questions]:
            raise UsageError(
                f"{file}: {format_count(len(shared), 'question')} of the training data, such as {shared[0][:60]!r}; "
                "remove their rows"
            )
        questions = tuple(evaluations.build_held_out_comparisons(readable_rows, str(file)))
        tokens = recipe.think_tokens or math.ceil(THINK_TOKENS_FACTOR * self.examples.longest_reply_tokens)
        return HeldOutEvaluation(questions, tokens, self.examples.reason_first), held_out

    def _check_metric(self) -> None:
        """Check settings that would otherwise fail only at the first evaluation.

        Raises:
            UsageError: A setting needs an evaluation or a metric that this run does not have.
        """
        args, patience = self.flags.args, self.flags.recipe.patience
        if patience and (args.eval_strategy == "no" or not args.load_best_model_at_end):
            raise UsageError("--patience needs evaluations during training and --load_best_model_at_end")
        if self.evaluation is None or not args.load_best_model_at_end:
            return
        metrics = {"loss", *evaluations.list_measurable_metrics(self.evaluation.comparisons)}
        if str(args.metric_for_best_model).removeprefix("eval_") not in metrics:
            names = ", ".join(f"eval_{name}" for name in sorted(metrics - {"asked"}))
            raise UsageError(
                f"--metric_for_best_model {args.metric_for_best_model}: not measured; the metrics are {names}"
            )

    def _train_model(self) -> None:
        rows = format_count(len(self.examples.rows), "judgment")
        left_out = f" ({len(self.examples.dropped)} left out)" if self.examples.dropped else ""
        self._print_status(f"training on {rows}{left_out}")
        if self.evaluation is not None:
            # Before the first step, so that the progress bar does not seem to hang.
            count = format_count(len(self.evaluation.comparisons), "held-out judgment")
            self._print_status(f"evaluating on {count} before the first step and during training")
        flags = self.flags
        with self._show_training() as callbacks:
            self.tuned = tune_judge(
                flags.policy,
                flags.model,
                flags.args,
                self.examples,
                held_out=self.held_out,
                evaluation=self.evaluation,
                patience=flags.recipe.patience,
                callbacks=callbacks,
            )

    def _prepare_folder(self, folder: Path) -> None:
        write_lines(folder / DROPPED, (row.to_json() for row in self.examples.dropped))

    @property
    def _identity(self) -> dict[str, Any]:
        """Settings that determine the results; a folder holds one run of one identity."""
        return {
            **build_identity(self.flags, self.flags.recipe),
            "data": self.examples.name,
            "data_digest": self.examples.digest,
            "held_out_digest": self.held_out.digest if self.held_out else None,
            "ranks": self.ranks.count,
        }

    def _write_summary(self) -> dict[str, Any]:
        log = json.loads((self.out / LOG_FILE).read_text(encoding="utf-8"))
        losses = [(entry["step"], entry["loss"]) for entry in log["log"] if entry.get("loss") is not None]
        summary = {
            **self.folder.settings,
            "base": self.flags.policy,
            "rows": len(self.examples.rows),
            "dropped": dict(Counter(row.reason for row in self.examples.dropped)),
            "held_out_rows": len(self.evaluation.comparisons) if self.evaluation else 0,
            "think_tokens": self.evaluation.think_tokens if self.evaluation else None,
            **asdict(self.tuned),
            "evaluations": [_evaluation_from_log(entry) for entry in log["log"] if "eval_asked" in entry],
            "loss": {"first": losses[0][1], "last": losses[-1][1], "steps": losses[-1][0]} if losses else None,
            "trl": collect_trl_settings(self.flags),
            "seconds": {"total": self.folder.total_seconds},
        }
        write_text(self.folder.path / SUMMARY, dump_json(summary, indent=2, default=str) + "\n")
        write_card(self.out, summary)
        return summary


def _evaluation_from_log(entry: dict[str, Any]) -> dict[str, Any]:
    """Extract the metrics of an evaluation from an entry of the trainer's log."""
    names = ("loss", *(name for name, _ in JUDGE_METRICS))
    return {"step": entry["step"], **{name: entry.get(f"eval_{name}") for name in names}}
