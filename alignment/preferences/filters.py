"""Filters for preference pairs: which of a rule's pairs are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated

from annotated_types import Ge

from flex_judge.alignment.data.texts import compute_seeded_hash, compute_similarity
from flex_judge.alignment.preferences.pairs import Pair, PairResult
from flex_judge.judges.validation.classes import NonNegativeFloat, PositiveInt, Share, settings_class


@settings_class
class FilterSpec:
    """Settings of the filters. The defaults keep nearly all pairs; None switches a filter off."""

    margin: NonNegativeFloat = 0.0
    """Minimum difference between the scores of a pair, on the rubric's scale. Equal scores never make a pair."""
    max_disagreement: Share | None = None
    """Maximum fraction of votes against the preference of a pair, 0 to 1 (default: no limit)."""
    max_length_ratio: Annotated[float, Ge(1)] | None = None
    """Maximum ratio between the lengths of the answers of a pair, in characters (default: no limit)."""
    max_similarity: Share | None = None
    """Maximum similarity of the answers of a pair, 0 to 1; short ones may differ in one digit (default: no limit)."""
    allow_cut: bool = True
    """Keep pairs with a truncated answer."""
    allow_repeated_prompts: bool = True
    """Keep pairs of a prompt that has occurred before under another id."""
    per_prompt: PositiveInt = 8
    """Maximum number of pairs per prompt."""
    seed: int = 0
    """Seed that selects the pairs of a prompt with too many."""


def _has_small_margin(pair: Pair, spec: FilterSpec) -> bool:
    return pair.margin < spec.margin


def _has_disagreement(pair: Pair, spec: FilterSpec) -> bool:
    return spec.max_disagreement is not None and pair.disagreement > spec.max_disagreement


def _has_truncated_answer(pair: Pair, spec: FilterSpec) -> bool:
    return not spec.allow_cut and (pair.chosen.cut or pair.rejected.cut)


def _exceeds_length_ratio(pair: Pair, spec: FilterSpec) -> bool:
    shorter, longer = sorted((len(pair.chosen.text), len(pair.rejected.text)))
    return spec.max_length_ratio is not None and longer > spec.max_length_ratio * shorter


def _is_near_duplicate(pair: Pair, spec: FilterSpec) -> bool:
    limit = spec.max_similarity
    return limit is not None and compute_similarity(pair.chosen.text, pair.rejected.text) > limit


FILTERS: Mapping[str, Callable[[Pair, FilterSpec], bool]] = MappingProxyType(
    {
        "small_margin": _has_small_margin,
        "disagreement": _has_disagreement,
        "cut": _has_truncated_answer,
        "length": _exceeds_length_ratio,
        "near_duplicate": _is_near_duplicate,
    }
)
"""Name in DROP_REASONS -> test whether the pair is dropped. A pair is counted under the first test that applies."""


def filter_pairs(result: PairResult, spec: FilterSpec) -> PairResult:
    """Return the pairs of a prompt that pass the filters, in their original order, and the updated drop counts."""
    dropped: Counter[str] = Counter(result.dropped)
    passing = []
    for pair in result.pairs:
        reason = next((name for name, drops in FILTERS.items() if drops(pair, spec)), None)
        if reason is None:
            passing.append(pair)
        else:
            dropped[reason] += 1
    if len(passing) > spec.per_prompt:
        dropped["over_cap"] += len(passing) - spec.per_prompt
        # Choose by a hash of the content, so that the choice does not depend on the order of the answers.
        shuffled = sorted(range(len(passing)), key=lambda i: _hash_pair(passing[i], spec.seed))
        passing = [passing[i] for i in sorted(shuffled[: spec.per_prompt])]
    return PairResult(tuple(passing), dropped)


def _hash_pair(pair: Pair, seed: int) -> str:
    return compute_seeded_hash(seed, pair.row.id, pair.chosen.response, pair.rejected.response)
