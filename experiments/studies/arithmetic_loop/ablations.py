"""`python -m flex_judge.experiments.studies.arithmetic_loop ablations`.

What the number of judgments, the order of reasoning and answer, the
length of the reasoning, voting and budget forcing do to the embedded judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.evaluation import HeldOutComparison
from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import Table, as_percent
from flex_judge.alignment.tasks.synthetic_teacher import judge_answers
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.arithmetic_loop.card import METRICS, find_metric
from flex_judge.experiments.studies.arithmetic_loop.evaluation import THINK_TOKENS, EvaluationSet, make_study_settings
from flex_judge.experiments.studies.arithmetic_loop.judge import (
    EmbeddedJudgeRun,
    evaluate_judge,
    list_training_questions,
    sample_all_answers,
    tune_adapter,
)
from flex_judge.experiments.studies.arithmetic_loop.questions import collect_sums
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.protocol.settings import JudgeSettings

SIZE_DIVISOR = 2
"""What is compared of the recipe is compared on half of the judgments, where there is room to differ."""
VOTES = (1, 3, 7, 15)
VOTING_TEMPERATURE = 0.7
WAITS = (0, 1, 2, 4)
SHORT_EVALUATION = 60
"""Single answers, and pairs, at most, of the evaluation of a judge that votes or is made to wait."""


@dataclass(frozen=True)
class Variant:
    """A judge that differs in one thing."""

    name: str
    recipe: EmbeddedJudgeRun
    """How it is made."""
    judging: JudgeSettings
    """How it judges."""
    in_steps: bool = True
    """Whether the reasoning that it learns shows how a result is come by."""
    often: bool = False
    """Whether it judges each question many times over, and so gets the short evaluation."""


def list_variants(config: EmbeddedJudgeRun) -> list[Variant]:
    """The whole recipe first, then each thing that is changed."""
    usual = make_study_settings()
    half = replace(config, size=max(2, config.size // SIZE_DIVISOR))
    quarter = replace(config, size=max(2, half.size // SIZE_DIVISOR))
    back = replace(half, reason_first=False)
    voting = replace(usual, temperature=VOTING_TEMPERATURE)
    return [
        *(Variant(f"{one.size} judgments", one, usual) for one in (config, half, quarter)),
        Variant(f"{half.size}, answer before the reasoning", back, make_study_settings(reason_first=False)),
        Variant(f"{half.size}, short reasoning: results without steps", half, usual, in_steps=False),
        *(Variant(f"drawn, {format_count(k, 'vote')}", config, replace(voting, votes=k), often=True) for k in VOTES),
        *(
            Variant(
                f"greedy, made to wait {format_count(k, 'time')}",
                config,
                replace(usual, num_waits=k, max_think_tokens=THINK_TOKENS * (k + 1)),
                often=True,
            )
            for k in WAITS
        ),
    ]


def main(config: EmbeddedJudgeRun) -> dict[str, Any]:
    """Make and examine the variants beside the judge itself, in the folder of its run.

    Returns:
        The summary, as written to `ablations/summary.json`.

    Raises:
        UsageError: the folder holds something else, or the judge answers before it reasons.
        JudgeError: what ended the run. The same run goes on from there.
    """
    if not config.reason_first:
        raise UsageError("ablations are of the judge that reasons first; leave --no-reason-first out")
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        answers, evaluation_answers = sample_all_answers(config, folder)
        paper, taught = (
            EvaluationSet.from_samples(evaluation_answers, seed=config.seed),
            collect_sums(list_training_questions(config)),
        )
        short = EvaluationSet(
            *(space_evenly(part, SHORT_EVALUATION) for part in (paper.pointwise, paper.pairwise, paper.swapped))
        )
        out = folder.path / "ablations"
        out.mkdir(exist_ok=True)
        rows = []
        for variant in list_variants(config):
            where = folder.path if variant.recipe == config and variant.in_steps else out / _make_slug(variant.name)
            change = (lambda _: None) if variant.in_steps else shorten_reasoning
            adapter = tune_adapter(variant.recipe, folder, answers, where, change)
            asked = short if variant.often else paper
            file = out / f"evaluation_{_make_slug(variant.name)}.jsonl"
            results = evaluate_judge(folder, asked, taught, variant.judging, file, adapter)
            rows.append({"name": variant.name, **results.to_json()})
        summary = {**folder.settings, "variants": rows}
        write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_text(out / "table.md", render_table(summary))
        return summary


def space_evenly(questions: Sequence[HeldOutComparison], most: int) -> tuple[HeldOutComparison, ...]:
    """At most so many of the questions, evenly spaced: neighbours are about the same sum."""
    step = max(1, -(-len(questions) // most))
    return tuple(questions[::step])


def shorten_reasoning(file: Path) -> None:
    """Take the steps out of the teacher's reasoning in a file of what is learnt; judgments and questions stay."""
    rows = []
    for row in read_rows(file):
        short, _ = judge_answers(row["question"], row["responses"], in_steps=False)
        long, _ = judge_answers(row["question"], row["responses"])
        (message,) = row["completion"]
        rows.append({**row, "completion": [{**message, "content": message["content"].replace(long, short)}]})
    write_rows(file, rows)


def render_table(summary: Mapping[str, Any]) -> str:
    """Compare all variants, in Markdown. With several votes, pairs count the majority and pointwise examples the
    mean."""
    columns = ("", *(title.lstrip("- ") for title, _ in METRICS), "asked")
    rows = [
        (
            row["name"],
            *(as_percent(find_metric(row, path)) for _, path in METRICS),
            row["pointwise"]["asked"] + row["pairwise"]["asked"],
        )
        for row in summary["variants"]
    ]
    return to_markdown(Table(columns, rows))


def _make_slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
