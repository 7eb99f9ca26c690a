"""What a curated data set came to, in numbers: for its summary and its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flex_judge.alignment.curation.examples import KINDS, TrainingExample
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.curation.selection import SelectionResult
from flex_judge.alignment.curation.steps import StepCounts
from flex_judge.alignment.curation.teacher import TeacherOutput

QUANTILES = {"least": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "most": 1.0}
_WINNERS = {0: "first", 1: "second", None: "tie"}


def summarise_curation(
    bad: Sequence[DropRecord], rows: int, taught: TeacherOutput, passed: Sequence[StepCounts], chosen: SelectionResult
) -> dict[str, Any]:
    """Counts, as JSON holds them.

    Args:
        bad: rows that no teacher saw.
        rows: those that the teacher was asked about.
    """
    splits = {"train": chosen.train, "held_out": chosen.held_out}
    return {
        "rows": rows + len(bad),
        "bad_rows": count_values(dropped.reason for dropped in bad),
        "judged_rows": rows,
        "rows_lost": taught.lost,
        "judgments": len(taught.examples),
        "bad_judgments": count_values(dropped.reason for dropped in taught.dropped),
        "steps": [{"step": p.step, "kept": p.kept, "dropped": dict(p.dropped.most_common())} for p in passed],
        "candidates": dict(chosen.candidates),
        "unfit": dict(chosen.unfit.most_common()),
        "kept_scale": dict(chosen.kept_scale.most_common()),
        "missing": dict(chosen.missing),
        "samples": {split: _count_kinds(found) for split, found in splits.items()},
        "winners": {
            split: count_values(_WINNERS[example.winner] for example in found if example.kind == "pairwise")
            for split, found in splits.items()
        },
        "batch_winners": {
            split: count_values(
                "tie" if example.winner is None else str(example.winner + 1)
                for example in found
                if example.kind == "listwise"
            )
            for split, found in splits.items()
        },
        "scales": {split: count_values(example.scale for example in found) for split, found in splits.items()},
        "tokens": {
            split: {kind: _compute_length_quantiles(found, kind) for kind in _count_kinds(found)}
            for split, found in splits.items()
        },
        "single_scores": {split: _count_pointwise_scores(found) for split, found in splits.items()},
    }


def count_values(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the commonest first."""
    return dict(Counter(values).most_common())


def _count_kinds(examples: Sequence[TrainingExample]) -> dict[str, int]:
    """Kind -> how many samples there are of it, where there is any."""
    found = Counter(example.kind for example in examples)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def _compute_length_quantiles(examples: Sequence[TrainingExample], kind: str) -> Mapping[str, int]:
    """Tokens of the reasoning of one kind of samples, of which there is one or more, at each of QUANTILES."""
    found = sorted(example.tokens for example in examples if example.kind == kind)
    return {name: found[round(share * (len(found) - 1))] for name, share in QUANTILES.items()}


def _count_pointwise_scores(examples: Sequence[TrainingExample]) -> dict[str, dict[str, int]]:
    """Scale -> score of a single -> how many, lowest first."""
    found: dict[str, Counter[float]] = {}
    for example in examples:
        if example.kind == "pointwise":
            found.setdefault(example.scale, Counter())[example.scores[0]] += 1
    return {scale: {f"{score:g}": tally[score] for score in sorted(tally)} for scale, tally in sorted(found.items())}
