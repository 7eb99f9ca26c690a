"""Ablations of the embedded judge: `python -m flex_judge.experiments.studies.arithmetic_loop ablations`.

They vary the number of training examples, the order of reasoning and answer, the length of the reasoning, majority
voting and budget forcing.
"""

from __future__ import annotations

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
from flex_judge.experiments.studies.arithmetic_loop.questions import collect_calculations
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.protocol.settings import JudgeSettings

SIZE_DIVISOR = 2
"""Divisor of the training set size for variants of the recipe. A smaller set leaves more room for differences."""
VOTES = (1, 3, 7, 15)
VOTING_TEMPERATURE = 0.7
WAITS = (0, 1, 2, 4)
SHORT_EVALUATION = 60
"""Maximum number of single answers and of pairs in the evaluation of variants with many votes or waits."""


@dataclass(frozen=True)
class Variant:
    """Judge that differs from the default recipe in one respect."""

    name: str
    recipe: EmbeddedJudgeRun
    """Training settings."""
    judging: JudgeSettings
    """Judging settings."""
    in_steps: bool = True
    """Whether the reasoning in the training data shows the steps of a calculation."""
    is_slow: bool = False
    """Whether the variant generates much more text per comparison and therefore gets the short evaluation."""


def list_variants(config: EmbeddedJudgeRun) -> list[Variant]:
    """List the variants, the default recipe first."""
    settings = make_study_settings()
    half = replace(config, size=max(2, config.size // SIZE_DIVISOR))
    quarter = replace(config, size=max(2, half.size // SIZE_DIVISOR))
    variants = [Variant(f"{recipe.size} judgments", recipe, settings) for recipe in (config, half, quarter)]
    answer_first = replace(half, reason_first=False)
    variants.append(
        Variant(f"{half.size} judgments, answer first", answer_first, make_study_settings(reason_first=False))
    )
    variants.append(Variant(f"{half.size} judgments, short reasoning without steps", half, settings, in_steps=False))
    for votes in VOTES:
        voting = replace(settings, temperature=VOTING_TEMPERATURE, votes=votes)
        variants.append(Variant(f"sampled, {format_count(votes, 'vote')}", config, voting, is_slow=True))
    for waits in WAITS:
        # The thinking budget grows with the number of waits, so that every continuation gets the full length.
        forcing = replace(settings, num_waits=waits, max_think_tokens=THINK_TOKENS * (waits + 1))
        name = f"greedy, budget forcing with {format_count(waits, 'wait')}"
        variants.append(Variant(name, config, forcing, is_slow=True))
    return variants


def main(config: EmbeddedJudgeRun) -> dict[str, Any]:
    """Train and evaluate all variants in the folder of the judge's run.

    Returns:
        The summary, as written to `ablations/summary.json`.

    Raises:
        UsageError: The folder holds a different run, or the judge answers before it reasons.
        JudgeError: The run failed. The same command resumes it.
    """
    if not config.reason_first:
        raise UsageError("--no-reason-first: not supported by the ablations, which include it as a variant; omit it")
    # The folder may be moved or renamed, so its path is not part of the identity of a run.
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        answers, evaluation_answers = sample_all_answers(config, folder)
        evaluation_set = EvaluationSet.from_samples(evaluation_answers, seed=config.seed)
        trained = collect_calculations(list_training_questions(config))
        short_set = EvaluationSet(
            pointwise=space_evenly(evaluation_set.pointwise, SHORT_EVALUATION),
            pairwise=space_evenly(evaluation_set.pairwise, SHORT_EVALUATION),
            swapped=space_evenly(evaluation_set.swapped, SHORT_EVALUATION),
        )
        out = folder.path / "ablations"
        out.mkdir(exist_ok=True)
        rows = []
        for variant in list_variants(config):
            slug = _make_slug(variant.name)
            # Variants that differ in their judging settings only share the default judge.
            is_default_judge = variant.recipe == config and variant.in_steps
            adapter = tune_adapter(
                variant.recipe,
                folder,
                answers,
                out=folder.path if is_default_judge else out / slug,
                edit_examples=(lambda _: None) if variant.in_steps else shorten_reasoning,
            )
            results = evaluate_judge(
                folder,
                short_set if variant.is_slow else evaluation_set,
                trained,
                settings=variant.judging,
                file=out / f"evaluation_{slug}.jsonl",
                adapter=adapter,
            )
            rows.append({"name": variant.name, **results.to_json()})
        summary = {**folder.settings, "variants": rows}
        write_text(out / "summary.json", dump_json(summary, indent=2) + "\n")
        write_text(out / "table.md", render_table(summary))
        return summary


def space_evenly(comparisons: Sequence[HeldOutComparison], limit: int) -> tuple[HeldOutComparison, ...]:
    """Take at most `limit` comparisons, evenly spaced, because neighbours are about the same calculation."""
    step = max(1, -(-len(comparisons) // limit))
    return tuple(comparisons[::step])


def shorten_reasoning(file: Path) -> None:
    """Remove the steps of calculations from the reasoning in a file of training examples."""
    rows = []
    for row in read_rows(file):
        short, _ = judge_answers(row["question"], row["responses"], in_steps=False)
        long, _ = judge_answers(row["question"], row["responses"])
        (message,) = row["completion"]
        # The scores are the same for both versions, so only the text of the reasoning is exchanged.
        rows.append({**row, "completion": [{**message, "content": message["content"].replace(long, short)}]})
    write_rows(file, rows)


def render_table(summary: Mapping[str, Any]) -> str:
    """Render the comparison of all variants as Markdown.

    With several votes, pairwise metrics count the majority and pointwise metrics the mean.
    """
    columns = ("", *(title.lstrip("- ") for title, _ in METRICS), "comparisons")
    rows = []
    for row in summary["variants"]:
        metrics = [as_percent(find_metric(row, path)) for _, path in METRICS]
        rows.append((row["name"], *metrics, row["pointwise"]["asked"] + row["pairwise"]["asked"]))
    return to_markdown(Table(columns, rows))


def _make_slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
