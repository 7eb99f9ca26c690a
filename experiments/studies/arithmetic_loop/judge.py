"""`python -m flex_judge.experiments.studies.arithmetic_loop judge`.

Reproduce the embedded judge, from the policy's answers through to the judge's evaluation.

The teacher is a program (`flex_judge.alignment.tasks.synthetic_teacher`), so what the judge learns from is
synthetic; the answers
that it learns to judge, and those that it is evaluated on, are the policy's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.curation.card import SPLITS
from flex_judge.alignment.tasks.arithmetic import ArithmeticQuestion
from flex_judge.alignment.tasks.synthetic_teacher import Calculation, parse_question
from flex_judge.experiments.commands.curate.config import SYNTHETIC, CurateRun
from flex_judge.experiments.commands.curate.run import main as curate
from flex_judge.experiments.common.console import build_progress, redirect_libraries
from flex_judge.experiments.common.flags import make_config, setting
from flex_judge.experiments.common.ranks import run_subcommand
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop.card import write_card
from flex_judge.experiments.studies.arithmetic_loop.evaluation import (
    EvaluationResults,
    EvaluationSet,
    grade_judgments,
    judge_evaluation_set,
    make_study_settings,
)
from flex_judge.experiments.studies.arithmetic_loop.questions import (
    EVALUATION,
    TRAIN,
    collect_sums,
    make_evaluation_questions,
    make_training_questions,
)
from flex_judge.experiments.studies.arithmetic_loop.samples import MAX_MODEL_LEN, sample_answers
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.models import ADAPTER_FILES
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

RECIPE = JUDGE
"""Name of the settings of `flex-judge sft`, and of the judge."""
HELD_OUT_JUDGMENTS = 40
"""Judgments that the curation keeps apart."""


@settings_class
class EmbeddedJudgeRun:
    """Settings of a run."""

    out: str = setting("runs/embedded-judge", "Output folder; a run that is there is resumed", metavar="DIR")
    questions: PositiveInt = setting(TRAIN, "Number of questions whose answers the judge is trained on", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(6, "Number of answers to each of those", metavar="N")
    size: Annotated[int, Ge(2)] = setting(
        1000, "Number of training examples, half of them pointwise, half pairwise", metavar="N"
    )
    epochs: float = setting(1.0, "Number of training epochs", metavar="X")
    reason_first: bool = setting(True, "Train to reason, then answer; the reverse is an ablation")
    evaluation_questions: PositiveInt = setting(EVALUATION, "Number of questions in the evaluation", metavar="N")
    evaluation_samples: Annotated[int, Ge(2)] = setting(4, "Number of answers to each of those", metavar="N")
    seed: NonNegativeInt = setting(0, "Seed of sampling, selection and training", metavar="N")


@dataclass(frozen=True)
class EvaluatedJudge:
    """A judge, and how it was evaluated."""

    adapter: Path
    """Folder of the LoRA adapter on the embedded base model, in half precision."""
    base: EvaluationResults
    """The evaluation of the base model."""
    judge: EvaluationResults
    """The evaluation of the judge."""


def main(config: EmbeddedJudgeRun) -> dict[str, Any]:
    """Make the judge, or go on with it.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: the folder holds something else.
        JudgeError: what ended the run. The same run goes on from there.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        made = make_judge(config, folder)
        results = {"base": made.base.to_json(), "judge": made.judge.to_json()}
        summary = {
            **folder.settings,
            **summarise_training_data(folder.path),
            **results,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_card(made.adapter, summary)
        return summary


def make_judge(config: EmbeddedJudgeRun, folder: RunFolder) -> EvaluatedJudge:
    """The judge in `folder`, after what was missing of it has been done."""
    answers, evaluation_answers = sample_all_answers(config, folder)
    adapter = tune_adapter(config, folder, answers, folder.path)
    paper, taught = (
        EvaluationSet.from_samples(evaluation_answers, seed=config.seed),
        collect_sums(list_training_questions(config)),
    )
    sat = [
        evaluate_judge(
            folder,
            paper,
            taught,
            make_study_settings(config.reason_first),
            folder.path / f"evaluation_{name}.jsonl",
            path,
        )
        for name, path in (("base", None), ("judge", adapter))
    ]
    return EvaluatedJudge(adapter, *sat)


def list_training_questions(config: EmbeddedJudgeRun) -> list[ArithmeticQuestion]:
    """Those that the judge learns on."""
    return make_training_questions(config.questions, make_evaluation_questions(config.evaluation_questions))


def sample_all_answers(config: EmbeddedJudgeRun, folder: RunFolder) -> tuple[Path, Path]:
    """The policy's answers that the judge learns on, and those of its evaluation."""
    answers, evaluation_answers = folder.path / "answers.jsonl", folder.path / "evaluation_answers.jsonl"
    asked = make_evaluation_questions(config.evaluation_questions)
    taught = list_training_questions(config)
    with folder.time_phase("sampling"), track_engine_progress(folder.path, "sampling") as advance:
        sample_answers(BASE, taught, config.samples, answers, config.seed, advance=advance(len(taught)))
        sample_answers(
            BASE, asked, config.evaluation_samples, evaluation_answers, config.seed, advance=advance(len(asked))
        )
    return answers, evaluation_answers


def tune_adapter(
    config: EmbeddedJudgeRun,
    folder: RunFolder,
    answers: Path,
    out: Path,
    change: Callable[[Path], None] = lambda _: None,
) -> Path:
    """The adapter of a judge that learnt on answers; everything of it is in the folder `out`.

    Args:
        change: is done to the file of what it learns from.
    """
    if not (out / RECIPE).exists():
        with folder.time_phase("curation"):
            _curate_answers(config, answers, out / "curated")
            change(out / "curated" / SPLITS["train"])
        with folder.time_phase("training"):
            _train_judge(config, out / "curated", out / "judge")
        save_half_precision(out / "judge", out / RECIPE)
    return out / RECIPE


def _curate_answers(config: EmbeddedJudgeRun, answers: Path, out: Path) -> None:
    settings = make_config(
        CurateRun,
        teacher=SYNTHETIC,
        samples=str(answers),
        size=config.size,
        held_out=HELD_OUT_JUDGMENTS,
        reason_first=config.reason_first,
        order_seed=config.seed,
        out=str(out),
    )
    curate(settings, None)


def _train_judge(config: EmbeddedJudgeRun, data: Path, out: Path) -> None:
    flags = {"config": RECIPE, "output_dir": out, "num_train_epochs": config.epochs, "seed": config.seed}
    run_subcommand("sft", str(data), *(text for name, value in flags.items() for text in (f"--{name}", str(value))))


def save_half_precision(judge: Path, out: Path) -> Path:
    """A copy of an adapter in half precision, which is what is shipped, and so what is evaluated."""
    import torch
    from safetensors.torch import load_file, save_file

    settings, weights = ADAPTER_FILES
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(judge / settings, partial / settings)
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(judge / weights).items()}
    save_file(tensors, partial / weights, metadata={"format": "pt"})
    partial.rename(out)
    return out


def evaluate_judge(
    folder: RunFolder,
    paper: EvaluationSet,
    taught: Collection[Calculation],
    settings: JudgeSettings,
    file: Path,
    adapter: Path | None,
) -> EvaluationResults:
    """The evaluation of the base model with an adapter, or without; replies of an earlier start are not computed again.

    Args:
        taught: the sums that it was trained on.
        settings: how it judges.
        file: keeps its judgments.
    """
    judgments = _read_stored_judgments(file, fingerprint_folder(adapter) if adapter else None)
    if judgments is None:
        with folder.time_phase(file.stem), track_engine_progress(folder.path, file.stem.replace("_", " ")) as advance:
            config = EngineConfig(
                BASE,
                adapter=str(adapter) if adapter else None,
                max_model_len=MAX_MODEL_LEN,
                ledger=str(folder.path / "evaluations.ledger"),
            )
            judge = FlexJudge(load_engine(config), settings)
            try:
                judgments = judge_evaluation_set(judge, paper, advance(len(paper.comparisons)))
            finally:
                judge.close()
        write_rows(file, [judgment.to_json() for judgment in judgments])
    return grade_judgments(paper, judgments, taught)


def _read_stored_judgments(file: Path, adapter: str | None) -> list[Judgment] | None:
    """The judgments of an evaluation that was held, unless another adapter was evaluated."""
    if not file.exists():
        return None
    judgments = [Judgment.from_json(row) for row in read_rows(file)]
    return judgments if adapter is None or all(j.model.endswith(f"@{adapter}") for j in judgments) else None


def summarise_training_data(out: Path) -> dict[str, Any]:
    """What the judge in a folder was taught; `size` and `questions` are what was asked for."""
    rows = list(read_rows(out / "curated" / SPLITS["train"]))
    return {
        "judgments": len(rows),
        "judgments_of": {kind: sum(row["kind"] == kind for row in rows) for kind in ("pointwise", "pairwise")},
        "questions_taught": len({row["question"] for row in rows}),
        "sums_taught": len({parse_question(row["question"]) for row in rows}),
    }


@contextmanager
def track_engine_progress(out: Path, title: str) -> Iterator[Callable[[int], Callable[[], object]]]:
    """Progress of work with an engine, whose own words go to a file. Yields what adds to the work and returns what
    advances it."""
    with redirect_libraries(out / "engines.log") as console, build_progress(console) as progress:
        bar = progress.add_task(title, total=0)

        def add_work(total: int) -> Callable[[], object]:
            progress.update(bar, total=(progress.tasks[bar].total or 0) + total)
            return lambda: progress.advance(bar)

        yield add_work
