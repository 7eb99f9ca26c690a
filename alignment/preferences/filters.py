"""Filters: which of the pairs that a rule makes are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flex_judge.alignment.data.texts import seeded_hash, similarity
from flex_judge.alignment.preferences.pairs import Found, Pair
from flex_judge.judges.errors import UsageError


@dataclass(frozen=True)
class FilterSpec:
    """What a pair must be like to be kept. The defaults keep nearly all; None switches a filter off."""

    margin: float = 0.0
    """By how much scores must differ at least, on the rubric's scale. They always differ by something."""
    max_disagreement: float | None = None
    """The largest share of votes that may not say what the pair says, 0 to 1, see `Pair.disagreement`."""
    max_length_ratio: float | None = None
    """How many times as long as the other, in characters, an answer may be."""
    max_similarity: float | None = None
    """How alike the two texts may be, 0 to 1, see `flex_judge.alignment.data.texts.similarity`. Off unless asked for:
    of     short answers a single digit can be all that matters."""
    allow_cut: bool = True
    """Whether an answer that was cut off may be in a pair."""
    allow_repeated_prompts: bool = True
    """Whether a prompt that has occurred under another id has pairs too. Applied with `SeenPrompts` where the rows of a
    whole run pass by."""
    per_prompt: int = 8
    """Pairs that are kept of one prompt at most."""
    seed: int = 0
    """Draws which ones."""

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise UsageError(f"margin must be 0 or more, not {self.margin}")
        for name, low, high in (("max_disagreement", 0, 1), ("max_length_ratio", 1, None), ("max_similarity", 0, 1)):
            value = getattr(self, name)
            if value is not None and not (low <= value and (high is None or value <= high)):
                allowed = f"{low} or more" if high is None else f"from {low} to {high}"
                raise UsageError(f"{name} must be {allowed}, not {value}")
        if self.per_prompt < 1:
            raise UsageError(f"per_prompt must be at least 1, not {self.per_prompt}")


def _small_margin(pair: Pair, spec: FilterSpec) -> bool:
    return pair.margin < spec.margin


def _disagreement(pair: Pair, spec: FilterSpec) -> bool:
    return spec.max_disagreement is not None and pair.disagreement > spec.max_disagreement


def _cut(pair: Pair, spec: FilterSpec) -> bool:
    return not spec.allow_cut and (pair.chosen.cut or pair.rejected.cut)


def _length(pair: Pair, spec: FilterSpec) -> bool:
    shorter, longer = sorted((len(pair.chosen.text), len(pair.rejected.text)))
    return spec.max_length_ratio is not None and longer > spec.max_length_ratio * shorter


def _near_duplicate(pair: Pair, spec: FilterSpec) -> bool:
    most = spec.max_similarity
    return most is not None and similarity(pair.chosen.text, pair.rejected.text) > most


FILTERS: Mapping[str, Callable[[Pair, FilterSpec], bool]] = MappingProxyType(
    {
        "small_margin": _small_margin,
        "disagreement": _disagreement,
        "cut": _cut,
        "length": _length,
        "near_duplicate": _near_duplicate,
    }
)
"""Why a pair is dropped, by names in DROP_REASONS -> whether it is. The first that applies counts."""


def filtered(found: Found, spec: FilterSpec) -> Found:
    """The pairs of a prompt that are kept, in the order in which they came."""
    dropped: Counter[str] = Counter(found.dropped)
    kept = []
    for pair in found.pairs:
        reason = next((name for name, drops in FILTERS.items() if drops(pair, spec)), None)
        if reason is None:
            kept.append(pair)
        else:
            dropped[reason] += 1
    if len(kept) > spec.per_prompt:
        dropped["over_cap"] += len(kept) - spec.per_prompt
        drawn = sorted(range(len(kept)), key=lambda i: _tie_break(kept[i], spec.seed))[: spec.per_prompt]
        kept = [kept[i] for i in sorted(drawn)]
    return Found(tuple(kept), dropped)


def _tie_break(pair: Pair, seed: int) -> str:
    return seeded_hash(seed, pair.row.id, pair.chosen.response, pair.rejected.response)
