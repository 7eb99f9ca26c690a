"""`flex-judge sft`: make a judge out of a base model, examine it while it learns, and say what came of it."""

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
from flex_judge.alignment.judge_training.data import TrainingExamples, held_out_file, read, train_file
from flex_judge.alignment.judge_training.trainer import HeldOutEvaluation
from flex_judge.alignment.judge_training.tuning import renderer_of, tune
from flex_judge.alignment.policy_training.tuning import LOG
from flex_judge.experiments.commands.sft.view import print_judge
from flex_judge.experiments.common.ranks import Ranks
from flex_judge.experiments.common.reporting.wording import count
from flex_judge.experiments.common.training.flags import Flags
from flex_judge.experiments.common.training.run import SUMMARY, TrainingRun, run_command
from flex_judge.experiments.common.training.settings import identity, settings_of
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import write_lines, write_text
from flex_judge.judges.protocol.rendering import Renderer

RECORD = "recipe"
"""Name of the folder, within that of the judge, where all is that is not the judge."""
DROPPED = "dropped.jsonl"
ROOM = 1.5
"""The budget of the thinking in an evaluation, by the longest reply of the data."""


def main(argv: Sequence[str]) -> int:
    """Run the command, see `run_command`."""
    return run_command("sft", argv, Making, print_judge)


class Making(TrainingRun):
    """A run of the command, in one of its processes."""

    record = RECORD

    def __init__(self, flags: Flags, ranks: Ranks) -> None:
        """Read the data.

        Raises:
            UsageError: there is none, or the settings do not fit it.
        """
        super().__init__(flags, ranks)
        data, args = str(flags.data), flags.args
        at_once = args.per_device_train_batch_size * ranks.count
        args.gradient_accumulation_steps = flags.recipe.accumulation(at_once) or args.gradient_accumulation_steps
        if args.max_length is None:
            raise UsageError(
                "--max_length is missing: a training example must fit, as a cut one would lose its verdict"
            )
        renderer = renderer_of(flags.policy)
        file = train_file(data)
        rows = read(file)
        self.examples = TrainingExamples.of(str(file), rows, renderer, args.max_length)
        taught = {row["question"] for row in rows if row.get("question") is not None}
        self.evaluation, self.held_out = self._evaluation(data, renderer, taught)
        if self.evaluation is None and args.eval_strategy != "no":
            raise UsageError(
                f"{data}: nothing is held out to evaluate the judge on; name a file with --held-out, or add "
                "--eval_strategy no"
            )
        self._check_metric()

    def _evaluation(
        self, data: str, renderer: Renderer, taught: Collection[str]
    ) -> tuple[HeldOutEvaluation | None, TrainingExamples | None]:
        recipe, args = self.flags.recipe, self.flags.args
        file = None if recipe.held_out_rows == 0 else held_out_file(data, recipe.held_out)
        if file is None:
            return None, None
        rows = read(file)[: recipe.held_out_rows]
        held_out = TrainingExamples.of(str(file), rows, renderer, args.max_length)
        for bad in held_out.dropped:
            raise UsageError(f"{file}, row {bad.row}: {bad.reason}: {bad.detail}; mend the row, or take it out")
        if shared := [row["question"] for row in rows if row.get("question") in taught]:
            raise UsageError(f"{file}: {len(shared)} of its questions are trained on, such as {shared[0][:60]!r}")
        questions = tuple(evaluations.questions(rows, str(file)))
        tokens = recipe.think_tokens or math.ceil(ROOM * self.examples.longest_reply)
        return HeldOutEvaluation(questions, tokens, self.examples.reason_first), held_out

    def _check_metric(self) -> None:
        """Raise UsageError for what would end training at its first evaluation."""
        args, patience = self.flags.args, self.flags.recipe.patience
        if patience and (args.eval_strategy == "no" or not args.load_best_model_at_end):
            raise UsageError("--patience takes evaluations during training, and --load_best_model_at_end")
        if self.evaluation is None or not args.load_best_model_at_end:
            return
        known = {"loss", *evaluations.measurable_metrics(self.evaluation.questions)}
        if str(args.metric_for_best_model).removeprefix("eval_") not in known:
            names = ", ".join(f"eval_{name}" for name in sorted(known - {"asked"}))
            raise UsageError(
                f"--metric_for_best_model {args.metric_for_best_model}: the held-out judgments give {names}"
            )

    def _work(self) -> None:
        rows = count(len(self.examples.rows), "judgment")
        left_out = f", {len(self.examples.dropped)} left out" if self.examples.dropped else ""
        self._say(f"training on {rows}{left_out}")
        flags = self.flags
        self.tuned = tune(
            flags.policy, flags.model, flags.args, self.examples, self.held_out, self.evaluation, flags.recipe.patience
        )

    def _begin(self, folder: Path) -> None:
        write_lines(folder / DROPPED, (row.to_json() for row in self.examples.dropped))

    @property
    def _identity(self) -> dict[str, Any]:
        """What determines the results; a folder holds one such run."""
        return {
            **identity(self.flags, self.flags.recipe),
            "data": self.examples.name,
            "data_digest": self.examples.digest,
            "held_out_digest": self.held_out.digest if self.held_out else None,
            "ranks": self.ranks.count,
        }

    def _summarise(self) -> dict[str, Any]:
        log = json.loads((self.out / LOG).read_text(encoding="utf-8"))
        losses = [(entry["step"], entry["loss"]) for entry in log["log"] if entry.get("loss") is not None]
        summary = {
            **self.folder.settings,
            "base": self.flags.policy,
            "rows": len(self.examples.rows),
            "dropped": dict(Counter(row.reason for row in self.examples.dropped)),
            "held_out_rows": len(self.evaluation.questions) if self.evaluation else 0,
            "think_tokens": self.evaluation.think_tokens if self.evaluation else None,
            **asdict(self.tuned),
            "evaluations": [_evaluation_from_log(entry) for entry in log["log"] if "eval_asked" in entry],
            "loss": {"first": losses[0][1], "last": losses[-1][1], "steps": losses[-1][0]} if losses else None,
            "trl": settings_of(self.flags),
            "seconds": {"total": self.folder.total_seconds},
        }
        write_text(self.folder.path / SUMMARY, json.dumps(summary, indent=2, default=str) + "\n")
        write_card(self.out, summary)
        return summary


def _evaluation_from_log(entry: dict[str, Any]) -> dict[str, Any]:
    names = ("loss", *(name for name, _ in JUDGE_METRICS))
    return {"step": entry["step"], **{name: entry.get(f"eval_{name}") for name in names}}
