"""Statistics of a curated data set for its summary and its data card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flex_judge.alignment.curation.examples import KINDS, TrainingExample
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.curation.selection import SelectionResult
from flex_judge.alignment.curation.steps import StepCounts
from flex_judge.alignment.curation.teacher import TeacherOutput
from flex_judge.alignment.reporting.model import name_option

QUANTILES = {"least": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "most": 1.0}


def summarise_curation(
    bad_rows: Sequence[DropRecord],
    row_count: int,
    teacher_output: TeacherOutput,
    steps: Sequence[StepCounts],
    selection: SelectionResult,
) -> dict[str, Any]:
    """Summarise a curation run as a JSON object.

    Args:
        bad_rows: Rows that were dropped before the teacher judged them.
        row_count: Number of rows that the teacher was asked to judge.
        teacher_output: Usable and dropped judgments of the teacher.
        steps: Counts of each curation step.
        selection: Selected examples.
    """
    splits = {"train": selection.train, "held_out": selection.held_out}
    summary: dict[str, Any] = {
        "rows": row_count + len(bad_rows),
        "bad_rows": count_values(record.reason for record in bad_rows),
        "judged_rows": row_count,
        "rows_lost": teacher_output.rows_without_example,
        "judgments": len(teacher_output.examples),
        "bad_judgments": count_values(record.reason for record in teacher_output.dropped),
        "steps": [{"step": s.step, "kept": s.kept, "dropped": dict(s.dropped.most_common())} for s in steps],
        "candidates": dict(selection.candidates),
        "unfit": dict(selection.unfit.most_common()),
        "kept_scale": dict(selection.kept_scale.most_common()),
        "missing": dict(selection.missing),
    }
    per_split: dict[str, dict[str, Any]] = {
        name: {} for name in ("samples", "winners", "batch_winners", "scales", "tokens", "single_scores")
    }
    for split, examples in splits.items():
        kinds = _count_kinds(examples)
        pairs = [example for example in examples if example.kind == "pairwise"]
        lists = [example for example in examples if example.kind == "listwise"]
        per_split["samples"][split] = kinds
        per_split["winners"][split] = count_values(_name_winner(example.winner) for example in pairs)
        per_split["batch_winners"][split] = count_values(_name_winner(example.winner) for example in lists)
        per_split["scales"][split] = count_values(example.scale for example in examples)
        per_split["tokens"][split] = {kind: _compute_length_quantiles(examples, kind) for kind in kinds}
        per_split["single_scores"][split] = _count_pointwise_scores(examples)
    return summary | per_split


def _name_winner(winner: int | None) -> str:
    return "tie" if winner is None else name_option(winner)


def count_values(values: Iterable[str]) -> dict[str, int]:
    """Count how often each value occurs, most frequent first."""
    return dict(Counter(values).most_common())


def _count_kinds(examples: Sequence[TrainingExample]) -> dict[str, int]:
    """Count the examples of each kind that occurs."""
    counts = Counter(example.kind for example in examples)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _compute_length_quantiles(examples: Sequence[TrainingExample], kind: str) -> Mapping[str, int]:
    """Compute quantiles of the reasoning length in tokens. There must be at least one example of the kind."""
    lengths = sorted(example.tokens for example in examples if example.kind == kind)
    # The nearest rank keeps token counts whole numbers; interpolation would not.
    return {name: lengths[round(share * (len(lengths) - 1))] for name, share in QUANTILES.items()}


def _count_pointwise_scores(examples: Sequence[TrainingExample]) -> dict[str, dict[str, int]]:
    """Count the scores of pointwise examples by scale, lowest score first."""
    counters: dict[str, Counter[float]] = {}
    for example in examples:
        if example.kind == "pointwise":
            counters.setdefault(example.scale, Counter())[example.scores[0]] += 1
    counts: dict[str, dict[str, int]] = {}
    for scale, counter in sorted(counters.items()):
        counts[scale] = {f"{score:g}": counter[score] for score in sorted(counter)}
    return counts
