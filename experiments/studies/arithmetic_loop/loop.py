"""`python -m flex_judge.experiments.studies.arithmetic_loop`.

Make the judge, choose by it, tune the policy on what it chose, and measure.

Every step is a command that users have, in a folder of its own, so an interrupted run goes on where it was.
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
    track_engine_progress,
)
from flex_judge.experiments.studies.arithmetic_loop.judge import main as make_judge
from flex_judge.experiments.studies.arithmetic_loop.page import write_page
from flex_judge.experiments.studies.arithmetic_loop.questions import (
    EVALUATION,
    collect_sums,
    make_evaluation_questions,
    make_policy_questions,
)
from flex_judge.experiments.studies.arithmetic_loop.samples import sample_answers
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.models import ADAPTER_FILES, check_model
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.validation.classes import PositiveInt, settings_class

ANSWER = "answer"
"""Column of the right answers."""
MARGIN = 1.0
"""By how much the scores of a pair differ: of answers that the judge finds alike there is nothing to learn."""


@settings_class
class ClosedLoopRun:
    """Settings of a run."""

    out: str = setting("runs/closed-loop", "Output folder; a run that is there is resumed", metavar="DIR")
    judge: str | None = setting(
        None,
        "Existing judge, instead of making one first: flex-smollm2-135m, another model, or the folder of an "
        "adapter on the embedded one",
        metavar="MODEL",
    )
    seeds: PositiveInt = setting(3, "Number of runs after the judge is made, with seeds 0, 1, ...", metavar="N")
    held_out: PositiveInt = setting(240, "Number of questions that the policy is evaluated on, greedily", metavar="N")
    curve: PositiveInt = setting(120, "Number of those questions with samples for best-of-N", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(16, "Number of samples per question for best-of-N", metavar="N")
    prompts: PositiveInt = setting(160, "Number of other questions, for preference pairs", metavar="N")
    prompt_samples: Annotated[int, Ge(2)] = setting(8, "Number of answers to each of those", metavar="N")
    per_prompt: PositiveInt = setting(2, "Maximum number of pairs per question", metavar="N")
    epochs: float = setting(1.0, "Number of DPO epochs", metavar="X")

    def __post_init__(self) -> None:
        if self.curve > self.held_out:
            raise UsageError(f"--curve {self.curve} is more than --held-out {self.held_out}, of which it is a part")
        if self.judge == JUDGE and self.curve > EVALUATION:
            raise UsageError(
                f"--curve above {EVALUATION} asks for sums that {JUDGE} was taught; make a judge anew for it"
            )


def main(config: ClosedLoopRun) -> dict[str, Any]:
    """Run the loop, or go on with it.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: the folder holds something else.
        JudgeError: what ended the run. The same run goes on from there.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "seeds")}
    if config.judge is not None:
        check_model(*_split_adapter(config.judge))
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        out = folder.path
        making = EmbeddedJudgeRun(out=str(out / "judge"), evaluation_questions=max(EVALUATION, config.curve))
        evaluation = None
        judge = config.judge
        if judge is None:
            with folder.time_phase("judge"):
                evaluation = make_judge(making)
            judge = str(out / "judge" / RECIPE)
        held_out = make_evaluation_questions(config.held_out)
        _sample_greedy_answers(folder, held_out, out / "greedy_before.jsonl")
        for seed in range(config.seeds):
            _run_seed_steps(config, folder, held_out, _make_judge_flags(judge), seed)
        figures = summarise_loop([out / f"seed-{seed}" for seed in range(config.seeds)], out / "greedy_before.jsonl")
        summary = {
            **folder.settings,
            "seeds": config.seeds,
            "policy": BASE,
            "judge": config.judge or f"{RECIPE}, made here",
            "evaluation": evaluation and {"base": evaluation["base"], "judge": evaluation["judge"]},
            **figures,
            "prompts_taught": _count_taught_prompts(config, making) if config.judge in (None, JUDGE) else None,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_page(out, summary)
        return summary


def _split_adapter(judge: str) -> tuple[str, str | None]:
    """A judge as model and adapter: a folder may be an adapter on the embedded base model."""
    return (BASE, judge) if (Path(judge) / ADAPTER_FILES[0]).is_file() else (judge, None)


def _make_judge_flags(judge: str) -> list[str]:
    model, adapter = _split_adapter(judge)
    return ["--model", model, *(["--adapter", adapter] if adapter else [])]


def _count_taught_prompts(config: ClosedLoopRun, making: EmbeddedJudgeRun) -> list[int]:
    """Of the questions that pairs were made of, for each seed how many ask for a sum that the judge was taught."""
    held_out, taught = make_evaluation_questions(config.held_out), collect_sums(list_training_questions(making))
    asked = (make_policy_questions(config.prompts, held_out, seed) for seed in range(config.seeds))
    return [sum(parse_question(question.text) in taught for question in some) for some in asked]


def _run_seed_steps(
    config: ClosedLoopRun, folder: RunFolder, held_out: list[ArithmeticQuestion], judge: list[str], seed: int
) -> None:
    out = folder.path / f"seed-{seed}"
    out.mkdir(exist_ok=True)
    curve, prompts = out / "held_out.jsonl", out / "prompts.jsonl"
    _write_prompts(curve, held_out[: config.curve])
    _write_prompts(prompts, make_policy_questions(config.prompts, held_out, seed))
    told = {"policy": BASE, "rubric": RUBRIC, "temperature": 0, "answer": ANSWER, "seed": seed}
    told |= {"sample-tokens": arithmetic.MAX_ANSWER_TOKENS, "sample-stop": arithmetic.STOP[0]}
    told |= {"sample-temperature": arithmetic.SAMPLING.temperature, "sample-top-p": arithmetic.SAMPLING.top_p}
    with folder.time_phase("best_of_n"):
        more = {"samples": config.samples, "out": out / "best_of_n"}
        run_subcommand("best-of-n", str(curve), *_format_flags({**told, **more}), *judge)
    with folder.time_phase("preferences"):
        more = {"samples": config.prompt_samples, "out": out / "preferences"}
        more |= {"rule": "all_pairs", "margin": MARGIN, "per-prompt": config.per_prompt}
        run_subcommand("preferences", str(prompts), *_format_flags({**told, **more}), *judge)
    with folder.time_phase("dpo"):
        flags = {"output_dir": out / "policy", "held-out-prompts": 0, "seed": seed, "num_train_epochs": config.epochs}
        run_subcommand("dpo", str(out / "preferences"), *_format_flags(flags))
    _sample_greedy_answers(folder, held_out, out / "greedy_after.jsonl", out / "policy")


def _sample_greedy_answers(
    folder: RunFolder, asked: list[ArithmeticQuestion], file: Path, adapter: Path | None = None
) -> None:
    """Have the policy answer once each, with its likeliest words."""
    with folder.time_phase("greedy_answers"), track_engine_progress(folder.path, f"answering: {file.stem}") as advance:
        sample_answers(BASE, asked, 1, file, adapter=adapter, temperature=0.0, advance=advance(len(asked)))


def _write_prompts(file: Path, asked: Iterable[ArithmeticQuestion]) -> None:
    write_rows(
        file,
        (
            {
                "id": question.id,
                "prompt": [{"role": message.role, "content": message.content} for message in question.prompt],
                ANSWER: question.answer,
            }
            for question in asked
        ),
    )


def _format_flags(values: Mapping[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def summarise_loop(seeds: Sequence[Path], before: Path) -> dict[str, Any]:
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
    start = _read_correctness(before)
    runs = []
    for folder in seeds:
        after = _read_correctness(folder / "greedy_after.jsonl")
        if start.keys() != after.keys():
            raise UsageError(f"{folder}: its questions are not those of {before}")
        runs.append(after)
    chosen = [json.loads((folder / "best_of_n" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    pairs = [json.loads((folder / "preferences" / "summary.json").read_text(encoding="utf-8")) for folder in seeds]
    return {
        "curve": _average_curves([run["accuracies"] for run in chosen]),
        "curve_questions": chosen[0]["prompts"],
        "greedy": _estimate_gain(start, runs),
        "runs": [_estimate_gain(start, [run]) for run in runs],
        "pairs": [{"pairs": run["pairs"], "right": run["right"]} for run in pairs],
    }


def _read_correctness(file: Path) -> dict[str, float]:
    """Whether the answer to each question is right, as 0 or 1."""
    return {row["id"]: float(is_correct_answer(row["responses"][0], row["kept"]["answer"])) for row in read_rows(file)}


def _estimate_gain(start: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    after = {name: fmean(run[name] for run in runs) for name in start}
    return {
        "before": asdict(estimate_mean(start.values())),
        "after": asdict(estimate_mean(after.values())),
        "difference": asdict(estimate_mean([after[name] - start[name] for name in start], shares=False)),
    }


def _average_curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of accuracies as best-of-N runs give them, the mean over runs and its deviation."""
    return {
        "random": _summarise_values([run["random"]["value"] for run in runs]),
        "best": {n: _summarise_values([run["best"][n]["value"] for run in runs]) for n in runs[0]["best"]},
        "pass_at": {n: _summarise_values([run["pass_at"][n]["value"] for run in runs]) for n in runs[0]["pass_at"]},
    }


def _summarise_values(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else None, "values": list(values)}
