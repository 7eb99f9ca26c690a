"""The full loop: `python -m flex_judge.experiments.studies.arithmetic_loop`.

The steps are: train the judge, run best-of-N, make preference pairs, tune the policy with DPO and evaluate it. Every
step is a public command with a folder of its own, so an interrupted run can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.best_of_n.metrics import estimate_mean
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.tasks.arithmetic import ArithmeticQuestion, is_correct_answer
from flex_judge.alignment.tasks.synthetic_teacher import parse_question
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.ranks import run_subcommand
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop.evaluation import RUBRIC
from flex_judge.experiments.studies.arithmetic_loop.judge import (
    RECIPE,
    EmbeddedJudgeRun,
    list_training_questions,
)
from flex_judge.experiments.studies.arithmetic_loop.judge import main as make_judge
from flex_judge.experiments.studies.arithmetic_loop.questions import (
    EVALUATION,
    collect_calculations,
    make_evaluation_questions,
    make_policy_questions,
)
from flex_judge.experiments.studies.arithmetic_loop.samples import sample_answers, track_engine_progress
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.models import ADAPTER_FILES, check_model
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.validation.classes import PositiveInt, settings_class

ANSWER = "answer"
"""Column of the right answers."""
MARGIN = 1.0
"""Minimum score difference of a pair. Answers that the judge scores alike teach the policy nothing."""


@settings_class
class ClosedLoopRun:
    """Settings of a run."""

    out: str = setting("runs/closed-loop", "Output folder; an existing run there is resumed", metavar="DIR")
    judge: str | None = setting(
        None,
        "Existing judge, instead of training one first: flex-smollm2-135m, another model, or the folder of an "
        "adapter for the embedded model",
        metavar="MODEL",
    )
    seeds: PositiveInt = setting(3, "Number of seeds; best-of-N, pairs and DPO are repeated for each", metavar="N")
    held_out: PositiveInt = setting(240, "Number of questions that the policy is evaluated on, greedily", metavar="N")
    curve: PositiveInt = setting(120, "Number of held-out questions that are sampled for best-of-N", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(16, "Number of samples per question for best-of-N", metavar="N")
    prompts: PositiveInt = setting(
        160, "Number of questions for preference pairs, other than the held-out ones", metavar="N"
    )
    prompt_samples: Annotated[int, Ge(2)] = setting(
        8, "Number of answers per question for preference pairs", metavar="N"
    )
    per_prompt: PositiveInt = setting(2, "Maximum number of pairs per question", metavar="N")
    epochs: float = setting(1.0, "Number of DPO epochs", metavar="X")

    def __post_init__(self) -> None:
        """Reject settings that contradict each other."""
        if self.curve > self.held_out:
            raise UsageError(f"--curve {self.curve}: must be at most --held-out, which is {self.held_out}")
        if self.judge == JUDGE and self.curve > EVALUATION:
            raise UsageError(
                f"--curve {self.curve}: more than {EVALUATION} questions include calculations from the training data "
                f"of {JUDGE}; omit --judge to train a new judge"
            )


def main(config: ClosedLoopRun) -> dict[str, Any]:
    """Run the loop, or resume an interrupted run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: The folder holds a different run.
        JudgeError: The run failed. The same command resumes it.
    """
    # More seeds can be added to an existing run, so their number does not identify it.
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "seeds")}
    if config.judge is not None:
        check_model(*_split_adapter(config.judge))
    with RunFolder(Path(config.out).resolve(), settings, kind="arithmetic_loop") as folder:
        out = folder.path
        judge_run = EmbeddedJudgeRun(out=str(out / "judge"), evaluation_questions=max(EVALUATION, config.curve))
        evaluation = None
        judge = config.judge
        # A judge that is trained here gets a folder of its own, and its evaluation becomes part of the report.
        if judge is None:
            with folder.time_phase("judge"):
                evaluation = make_judge(judge_run)
            judge = str(out / "judge" / RECIPE)
        held_out = make_evaluation_questions(config.held_out)
        _sample_greedy_answers(folder, held_out, out / "greedy_before.jsonl")
        for seed in range(config.seeds):
            _run_seed_steps(config, folder, held_out, judge_flags=_make_judge_flags(judge), seed=seed)
        metrics = summarise_loop([out / f"seed-{seed}" for seed in range(config.seeds)], out / "greedy_before.jsonl")
        summary = {
            **folder.settings,
            "seeds": config.seeds,
            "policy": BASE,
            "judge": config.judge or f"{RECIPE}, trained in this run",
            "evaluation": evaluation and {"base": evaluation["base"], "judge": evaluation["judge"]},
            **metrics,
            "prompts_taught": _count_taught_prompts(config, judge_run) if config.judge in (None, JUDGE) else None,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(out / "summary.json", dump_json(summary, indent=2) + "\n")
        return summary


def _split_adapter(judge: str) -> tuple[str, str | None]:
    """Split a judge into model and adapter. A folder may hold an adapter for the embedded base model."""
    return (BASE, judge) if (Path(judge) / ADAPTER_FILES[0]).is_file() else (judge, None)


def _make_judge_flags(judge: str) -> list[str]:
    model, adapter = _split_adapter(judge)
    return ["--judge", model, *(["--judge-adapter", adapter] if adapter else [])]


def _count_taught_prompts(config: ClosedLoopRun, judge_run: EmbeddedJudgeRun) -> list[int]:
    """Count, for each seed, the preference questions with a calculation from the judge's training data."""
    held_out = make_evaluation_questions(config.held_out)
    trained = collect_calculations(list_training_questions(judge_run))
    counts = []
    for seed in range(config.seeds):
        questions = make_policy_questions(config.prompts, held_out, seed)
        counts.append(sum(parse_question(question.text) in trained for question in questions))
    return counts


def _run_seed_steps(
    config: ClosedLoopRun, folder: RunFolder, held_out: list[ArithmeticQuestion], *, judge_flags: list[str], seed: int
) -> None:
    """Run best-of-N, preferences and DPO with one seed, then sample the tuned policy's greedy answers."""
    out = folder.path / f"seed-{seed}"
    out.mkdir(exist_ok=True)
    curve, prompts = out / "held_out.jsonl", out / "prompts.jsonl"
    _write_prompts(curve, held_out[: config.curve])
    _write_prompts(prompts, make_policy_questions(config.prompts, held_out, seed))
    # The judge decodes greedily, so the seed affects only the samples of the policy.
    common_flags = {
        "policy": BASE,
        "rubric": RUBRIC,
        "temperature": 0,
        "answer": ANSWER,
        "seed": seed,
        "sample-tokens": arithmetic.MAX_ANSWER_TOKENS,
        "sample-stop": arithmetic.STOP[0],
        "sample-temperature": arithmetic.SAMPLING.temperature,
        "sample-top-p": arithmetic.SAMPLING.top_p,
    }
    with folder.time_phase("best_of_n"):
        flags = {**common_flags, "samples": config.samples, "out": out / "best_of_n"}
        run_subcommand("best-of-n", str(curve), *_format_flags(flags), *judge_flags)
    with folder.time_phase("preferences"):
        flags = {**common_flags, "samples": config.prompt_samples, "out": out / "preferences"}
        flags |= {"rule": "all_pairs", "margin": MARGIN, "per-prompt": config.per_prompt}
        run_subcommand("preferences", str(prompts), *_format_flags(flags), *judge_flags)
    with folder.time_phase("dpo"):
        # The study evaluates the policy itself, so the command holds out no prompts.
        flags = {"output_dir": out / "policy", "held-out-prompts": 0, "seed": seed, "num_train_epochs": config.epochs}
        run_subcommand("dpo", str(out / "preferences"), *_format_flags(flags))
    _sample_greedy_answers(folder, held_out, out / "greedy_after.jsonl", out / "policy")


def _sample_greedy_answers(
    folder: RunFolder, questions: list[ArithmeticQuestion], file: Path, adapter: Path | None = None
) -> None:
    with folder.time_phase("greedy_answers"), track_engine_progress(folder.path, f"answering: {file.stem}") as add_work:
        advance = add_work(len(questions))
        sample_answers(BASE, questions, samples=1, path=file, adapter=adapter, temperature=0.0, advance=advance)


def _write_prompts(file: Path, questions: Iterable[ArithmeticQuestion]) -> None:
    rows = []
    for question in questions:
        messages = [{"role": message.role, "content": message.content} for message in question.prompt]
        rows.append({"id": question.id, "prompt": messages, ANSWER: question.answer})
    write_rows(file, rows)


def _format_flags(values: Mapping[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def summarise_loop(seeds: Sequence[Path], before: Path) -> dict[str, Any]:
    """Summarise the results of all seeds.

    Args:
        seeds: Folders of the seeds' runs.
        before: File of the policy's greedy answers before training.

    Returns:
        A mapping with these keys:

        - `curve`: mean and standard deviation over seeds of the best-of-N accuracy for each N.
        - `greedy`: greedy accuracy before and after training and the difference, each the mean over seeds with a 95 %
          interval over questions.
        - `runs`: the same for each seed.
        - `pairs`: number of preference pairs of each seed.

    Raises:
        UsageError: A seed was evaluated on other questions than the policy before training.
    """
    start = _read_correctness(before)
    runs = []
    for folder in seeds:
        run = _read_correctness(folder / "greedy_after.jsonl")
        if start.keys() != run.keys():
            raise UsageError(f"{folder}: its questions differ from the questions in {before}; use another --out")
        runs.append(run)
    best_of_n = [json.loads((folder / "best_of_n" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    pairs = [json.loads((folder / "preferences" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    return {
        "curve": _average_curves([summary["accuracies"] for summary in best_of_n]),
        "curve_questions": best_of_n[0]["prompts"],
        "greedy": _estimate_gain(start, runs),
        "runs": [_estimate_gain(start, [run]) for run in runs],
        "pairs": [{"pairs": summary["pairs"], "right": summary["right"]} for summary in pairs],
    }


def _read_correctness(file: Path) -> dict[str, float]:
    """Read whether the answer to each question is right, as 0 or 1."""
    return {row["id"]: float(is_correct_answer(row["responses"][0], row["kept"]["answer"])) for row in read_rows(file)}


def _estimate_gain(start: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    # Averaging over seeds first keeps the interval an interval over questions.
    means = {name: fmean(run[name] for run in runs) for name in start}
    differences = [means[name] - start[name] for name in start]
    return {
        "before": asdict(estimate_mean(start.values())),
        "after": asdict(estimate_mean(means.values())),
        "difference": asdict(estimate_mean(differences, shares=False)),
    }


def _average_curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute mean and standard deviation over runs of best-of-N accuracies."""
    return {
        "random": _summarise_values([run["random"]["value"] for run in runs]),
        "best": {n: _summarise_values([run["best"][n]["value"] for run in runs]) for n in runs[0]["best"]},
        "pass_at": {n: _summarise_values([run["pass_at"][n]["value"] for run in runs]) for n in runs[0]["pass_at"]},
    }


def _summarise_values(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else None, "values": list(values)}
