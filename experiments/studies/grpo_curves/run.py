"""The study: one GRPO training per seed with the same judge service, and a summary over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.best_of_n.metrics import estimate_mean
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.ranks import run_judge_server
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop.evaluation import RUBRIC
from flex_judge.experiments.studies.arithmetic_loop.questions import make_evaluation_questions, make_policy_questions
from flex_judge.experiments.studies.grpo_curves.training import Canary, Evaluation, TrainingSettings, train_policy
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_text
from flex_judge.judges.models import check_model, resolve_model
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.rubrics import get_rubric
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.types import RewardSpec

RESULT = "result.json"


@settings_class
class GrpoCurvesRun:
    """Settings of a run."""

    out: str = setting("runs/grpo-curves", "Output folder; finished seeds there are kept", metavar="DIR")
    policy: str = setting(BASE, "Policy to train: embedded name, folder or hub id", metavar="MODEL")
    judge: str = setting(JUDGE, "Judge to serve for the run", metavar="MODEL")
    judge_url: str | None = setting(None, "Judge service to use instead of starting one", metavar="URL")
    seeds: PositiveInt = setting(3, "Number of seeds", metavar="N")
    steps: PositiveInt = setting(60, "Number of GRPO steps", metavar="N")
    prompts_per_step: PositiveInt = setting(4, "Number of questions in a step", metavar="N")
    generations: Annotated[int, Ge(2)] = setting(8, "Number of answers to each of these questions", metavar="N")
    learning_rate: float = setting(1e-5, "Learning rate; all weights are trained", metavar="X")
    held_out: PositiveInt = setting(120, "Number of questions that the policy answers in an evaluation", metavar="N")
    canaries: PositiveInt = setting(24, "Number of questions with a fixed right and a fixed wrong answer", metavar="N")
    evaluate_every: PositiveInt = setting(15, "Number of steps between two evaluations", metavar="N")


def run_study(config: GrpoCurvesRun) -> dict[str, Any]:
    """Train one policy per seed, or go on with the seeds that have no result.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: the folder holds a different run, or the judge does not exist.
        JudgeError: the run failed. The same command goes on with the seed that failed.
    """
    # More seeds can be added to an existing run, so their number does not identify it.
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "seeds", "judge_url")}
    check_model(config.policy, None)
    if config.judge_url is None:
        check_model(config.judge, None)
    with RunFolder(Path(config.out).resolve(), settings, kind="grpo_curves") as folder:
        results = [folder.path / f"seed-{seed}" / RESULT for seed in range(config.seeds)]
        missing = [seed for seed, file in enumerate(results) if not file.is_file()]
        if missing:
            with _serve_judge(config) as url:
                for seed in missing:
                    with folder.time_phase("train"):
                        _train_seed(config, url, seed, results[seed].parent)
        runs = [json.loads(file.read_text(encoding="utf-8")) for file in results]
        scale = get_rubric(RUBRIC).scale
        summary = {
            **folder.settings,
            "seeds": config.seeds,
            "score_range": [scale.low, scale.high],
            **summarise_seeds(runs),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
        return summary


@contextmanager
def _serve_judge(config: GrpoCurvesRun) -> Iterator[str]:
    if config.judge_url is not None:
        yield config.judge_url
        return
    # Greedy, so that the scores of the canaries change only if the judge does.
    with run_judge_server("--model", config.judge, "--temperature", "0") as url:
        yield url


def _train_seed(config: GrpoCurvesRun, url: str, seed: int, out: Path) -> None:
    out.mkdir(exist_ok=True)
    held_out = make_evaluation_questions(max(config.held_out, config.canaries))
    # No sum of the evaluation is trained on.
    questions = make_policy_questions(config.steps * config.prompts_per_step, held_out, seed)
    evaluation = Evaluation(
        JudgeClient(url),
        RewardSpec(RUBRIC),
        held_out[: config.held_out],
        [Canary.from_question(question) for question in held_out[: config.canaries]],
    )
    training = TrainingSettings(
        policy=str(resolve_model(config.policy)),
        steps=config.steps,
        prompts_per_step=config.prompts_per_step,
        generations=config.generations,
        learning_rate=config.learning_rate,
        seed=seed,
        evaluate_every=config.evaluate_every,
    )
    with (
        redirect_libraries(out / "training.log") as console,
        Progress(console) as progress,
        progress.show_phase(f"training, seed {seed}", total=config.steps) as phase,
    ):
        result = train_policy(
            training, questions, evaluation, url, RUBRIC, out / "trainer", lambda step: phase.set_counts(step)
        )
    write_text(out / RESULT, dump_json(result, indent=1) + "\n")


def summarise_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the results of all seeds.

    Args:
        runs: results of `train_policy`.

    Returns:
        A mapping with these keys:

        - `training`: for each step the mean judge score and the share of right completions over all seeds, and both for
          each seed.
        - `evaluations`: for each evaluated step the greedy accuracy (mean over seeds with a 95 % interval over
          questions), the mean score of the greedy answers, and the share of canaries whose right answer scored higher.
        - `gain`: difference of the greedy accuracy between the last and the first evaluation.
        - `unscored`: number of judgments of evaluations without a score.

    Raises:
        UsageError: the seeds were evaluated at different steps.
    """
    schedules = {tuple(evaluation["step"] for evaluation in run["evaluations"]) for run in runs}
    if len(schedules) != 1:
        raise UsageError("the seeds were evaluated at different steps; use another --out")
    evaluations = [[run["evaluations"][i] for run in runs] for i in range(len(*schedules))]
    first, last = evaluations[0], evaluations[-1]
    differences = [after - before for before, after in zip(_average_right(first), _average_right(last), strict=True)]
    return {
        "training": _summarise_steps(runs),
        "evaluations": [_summarise_evaluations(same_step) for same_step in evaluations],
        "gain": asdict(estimate_mean(differences, shares=False)),
        "gains": [fmean(b["right"]) - fmean(a["right"]) for a, b in zip(first, last, strict=True)],
        "unscored": sum(
            score is None
            for same_step in evaluations
            for evaluation in same_step
            for score in chain(evaluation["scores"], *evaluation["canaries"])
        ),
    }


def _average_right(evaluations: Sequence[Mapping[str, Any]]) -> list[float]:
    """Average over seeds whether each question is answered correctly, so that intervals are over questions."""
    return [fmean(values) for values in zip(*(evaluation["right"] for evaluation in evaluations), strict=True)]


def _summarise_steps(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    steps = []
    for same_step in zip(*(run["steps"] for run in runs), strict=True):
        row: dict[str, Any] = {"step": same_step[0]["step"]}
        for name in ("judge_score", "truth", "tokens"):
            values = [entry[name] for entry in same_step]
            known = [value for value in values if value is not None]
            row[name] = {"mean": fmean(known) if known else None, "values": values}
        steps.append(row)
    return steps


def _summarise_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [score for evaluation in evaluations for score in evaluation["scores"] if score is not None]
    canaries = [pair for evaluation in evaluations for pair in evaluation["canaries"] if None not in pair]
    return {
        "step": evaluations[0]["step"],
        "accuracy": asdict(estimate_mean(_average_right(evaluations))),
        "accuracies": [fmean(evaluation["right"]) for evaluation in evaluations],
        "judge_score": fmean(scores) if scores else None,
        "canaries": fmean(right > wrong for right, wrong in canaries) if canaries else None,
        "canary_scores": [fmean(values) for values in zip(*canaries, strict=True)] if canaries else None,
    }
