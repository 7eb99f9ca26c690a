"""Reproduction of the embedded judge: `python -m flex_judge.experiments.studies.arithmetic_loop judge`.

The steps are: sample answers from the policy, curate training examples, train the judge and evaluate it. The teacher is
a program (`flex_judge.alignment.tasks.synthetic_teacher`), so the judgments are synthetic. The judged answers are the
policy's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.curation.card import SPLITS
from flex_judge.alignment.tasks.arithmetic import ArithmeticQuestion
from flex_judge.alignment.tasks.synthetic_teacher import Calculation, parse_question
from flex_judge.experiments.commands.curate.config import SYNTHETIC, CurateRun
from flex_judge.experiments.commands.curate.run import main as curate
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
    collect_calculations,
    make_evaluation_questions,
    make_training_questions,
)
from flex_judge.experiments.studies.arithmetic_loop.samples import MAX_MODEL_LEN, sample_answers, track_engine_progress
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.models import ADAPTER_FILES
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

RECIPE = JUDGE
"""Name of the `flex-judge sft` recipe, and of the judge."""
HELD_OUT_JUDGMENTS = 40
"""Number of judgments that the curation holds out."""


@settings_class
class EmbeddedJudgeRun:
    """Settings of a run."""

    out: str = setting("runs/embedded-judge", "Output folder; an existing run there is resumed", metavar="DIR")
    questions: PositiveInt = setting(TRAIN, "Number of questions whose answers the judge is trained on", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(6, "Number of answers per training question", metavar="N")
    size: Annotated[int, Ge(2)] = setting(
        1000, "Number of training examples, half of them pointwise, half pairwise", metavar="N"
    )
    epochs: float = setting(1.0, "Number of training epochs", metavar="X")
    reason_first: bool = setting(True, "Train to reason, then answer; the reverse is an ablation")
    evaluation_questions: PositiveInt = setting(EVALUATION, "Number of questions in the evaluation", metavar="N")
    evaluation_samples: Annotated[int, Ge(2)] = setting(4, "Number of answers per evaluation question", metavar="N")
    seed: NonNegativeInt = setting(0, "Seed of sampling, selection and training", metavar="N")


@dataclass(frozen=True)
class EvaluatedJudge:
    """Trained judge, and the evaluations of the base model and of the judge."""

    adapter: Path
    """Folder of the LoRA adapter for the embedded base model, in half precision."""
    base: EvaluationResults
    """Evaluation of the base model."""
    judge: EvaluationResults
    """Evaluation of the judge."""


def main(config: EmbeddedJudgeRun) -> dict[str, Any]:
    """Train and evaluate the judge, or resume an interrupted run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: The folder holds a different run.
        JudgeError: The run failed. The same command resumes it.
    """
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        result = make_judge(config, folder)
        summary = {
            **folder.settings,
            **summarise_training_data(folder.path),
            "base": result.base.to_json(),
            "judge": result.judge.to_json(),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
        write_card(result.adapter, summary)
        return summary


def make_judge(config: EmbeddedJudgeRun, folder: RunFolder) -> EvaluatedJudge:
    """Run the steps that are not done yet: sampling, curation, training and evaluation."""
    answers, evaluation_answers = sample_all_answers(config, folder)
    adapter = tune_adapter(config, folder, answers, out=folder.path)
    evaluation_set = EvaluationSet.from_samples(evaluation_answers, seed=config.seed)
    trained = collect_calculations(list_training_questions(config))
    results = {}
    for name, path in (("base", None), ("judge", adapter)):
        results[name] = evaluate_judge(
            folder,
            evaluation_set,
            trained,
            settings=make_study_settings(config.reason_first),
            file=folder.path / f"evaluation_{name}.jsonl",
            adapter=path,
        )
    return EvaluatedJudge(adapter, **results)


def list_training_questions(config: EmbeddedJudgeRun) -> list[ArithmeticQuestion]:
    """List the questions whose answers the judge is trained on."""
    return make_training_questions(config.questions, make_evaluation_questions(config.evaluation_questions))


def sample_all_answers(config: EmbeddedJudgeRun, folder: RunFolder) -> tuple[Path, Path]:
    """Sample the policy's answers to the training and the evaluation questions.

    Returns:
        Files of the training and of the evaluation answers.
    """
    answers, evaluation_answers = folder.path / "answers.jsonl", folder.path / "evaluation_answers.jsonl"
    questions = list_training_questions(config)
    evaluation_questions = make_evaluation_questions(config.evaluation_questions)
    with folder.time_phase("sampling"), track_engine_progress(folder.path, "sampling") as add_work:
        for path, batch, samples in (
            (answers, questions, config.samples),
            (evaluation_answers, evaluation_questions, config.evaluation_samples),
        ):
            sample_answers(BASE, batch, samples=samples, path=path, seed=config.seed, advance=add_work(len(batch)))
    return answers, evaluation_answers


def tune_adapter(
    config: EmbeddedJudgeRun,
    folder: RunFolder,
    answers: Path,
    *,
    out: Path,
    edit_examples: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Curate training examples from answers and train the adapter of a judge, unless that is done already.

    Args:
        config: Settings of the run.
        folder: Folder of the run, for timing.
        answers: File of sampled answers.
        out: Output folder for the training examples and the adapter.
        edit_examples: Function that edits the file of training examples before training.

    Returns:
        Folder of the adapter in half precision.
    """
    # The adapter's folder is the last thing that is written, so it exists only if everything before it is complete.
    if not (out / RECIPE).exists():
        with folder.time_phase("curation"):
            _curate_answers(config, answers, out / "curated")
            edit_examples(out / "curated" / SPLITS["train"])
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
    """Save a copy of an adapter in half precision.

    The copy is what the package ships, so it is also what the study evaluates.

    Args:
        judge: Folder of the adapter.
        out: Output folder. It appears only when the copy is complete.

    Returns:
        The output folder.
    """
    import torch
    from safetensors.torch import load_file, save_file

    config_file, weights_file = ADAPTER_FILES
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(judge / config_file, partial / config_file)
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(judge / weights_file).items()}
    save_file(tensors, partial / weights_file, metadata={"format": "pt"})
    partial.rename(out)
    return out


def evaluate_judge(
    folder: RunFolder,
    evaluation_set: EvaluationSet,
    trained: Collection[Calculation],
    *,
    settings: JudgeSettings,
    file: Path,
    adapter: Path | None,
) -> EvaluationResults:
    """Evaluate the base model, with or without an adapter. Stored judgments and replies are reused.

    Args:
        folder: Folder of the run.
        evaluation_set: Comparisons to judge.
        trained: Calculations in the training data.
        settings: Settings of the judge.
        file: File that stores the judgments.
        adapter: Folder of the adapter; None for the base model alone.
    """
    judgments = _read_stored_judgments(file, fingerprint_folder(adapter) if adapter else None)
    if judgments is None:
        title = file.stem.replace("_", " ")
        with folder.time_phase(file.stem), track_engine_progress(folder.path, title) as add_work:
            config = EngineConfig(
                BASE,
                adapter=str(adapter) if adapter else None,
                max_model_len=MAX_MODEL_LEN,
                ledger=str(folder.path / "evaluations.ledger"),
            )
            judge = FlexJudge(load_engine(config), settings)
            try:
                advance = add_work(len(evaluation_set.comparisons))
                judgments = judge_evaluation_set(judge, evaluation_set, advance)
            finally:
                judge.close()
        write_rows(file, [judgment.to_json() for judgment in judgments])
    return grade_judgments(evaluation_set, judgments, trained)


def _read_stored_judgments(file: Path, adapter: str | None) -> list[Judgment] | None:
    """Read the judgments of an earlier evaluation.

    Args:
        file: File of the judgments.
        adapter: Fingerprint of the adapter; None for the base model alone.

    Returns:
        The judgments, or None if there are none or another adapter made them.
    """
    if not file.exists():
        return None
    judgments = [Judgment.from_json(row) for row in read_rows(file)]
    return judgments if adapter is None or all(j.model.endswith(f"@{adapter}") for j in judgments) else None


def summarise_training_data(out: Path) -> dict[str, Any]:
    """Count the training examples, questions and calculations of a run.

    The counts may be lower than the settings `size` and `questions`, which are requests.
    """
    rows = list(read_rows(out / "curated" / SPLITS["train"]))
    return {
        "judgments": len(rows),
        "judgments_of": {kind: sum(row["kind"] == kind for row in rows) for kind in ("pointwise", "pairwise")},
        "questions_taught": len({row["question"] for row in rows}),
        "sums_taught": len({parse_question(row["question"]) for row in rows}),
    }
