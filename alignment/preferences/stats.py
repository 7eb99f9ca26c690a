"""What is counted while a preference data set is made, shard by shard."""

from __future__ import annotations

import base64
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flex_judge.alignment.data.rows import SampledPrompt
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.alignment.preferences.histogram import LogHistogram, ScoreHistogram
from flex_judge.alignment.preferences.pairs import Pair, PairResult
from flex_judge.judges.judgments import Judgment


@dataclass
class CardStats:
    """Counts of a part of a data set. Parts that were counted apart are added up, in any order: `+`.

    Of bounded size but for 8 bytes of each prompt, by which those that occur again are found: 8 MB for a million.
    """

    prompts: int = 0
    """Prompts that were read, without rows that are none."""
    bad_rows: Counter[str] = field(default_factory=Counter)
    """Why rows were left out -> how many. Reasons are few: a text that names the row would be one of its own."""
    completions: int = 0
    cut: int = 0
    """Completions that were cut off."""
    judgments: Counter[str] = field(default_factory=Counter)
    """By status."""
    pairs: int = 0
    rows: int = 0
    """Rows that were written; of some formats, not as many as there are pairs."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By name in DROP_REASONS."""
    chosen_cut: int = 0
    chosen_is: Counter[str] = field(default_factory=Counter)
    """Of pairs, whether the chosen answer is the `longer`, the `shorter`, or of `equal` length, in characters."""
    sampled_first: Counter[str] = field(default_factory=Counter)
    """Of pairs, which side was sampled before the other: `chosen` or `rejected`."""
    places: Counter[str] = field(default_factory=Counter)
    """Of scored votes on two answers, which won: the one read `first`, the one read `second`, or a `tie`."""
    orders: Counter[str] = field(default_factory=Counter)
    """Of judgments that were made in several orders, whether these `agree` in all rounds or `disagree`."""
    length_chosen: LogHistogram = field(default_factory=LogHistogram)
    """Characters."""
    length_rejected: LogHistogram = field(default_factory=LogHistogram)
    scores: ScoreHistogram = field(default_factory=ScoreHistogram)
    """All scores of answers, whether they are in a pair or not."""
    margins: ScoreHistogram = field(default_factory=ScoreHistogram)
    judges: Counter[str] = field(default_factory=Counter)
    """Models by the judgments they made."""
    policies: Counter[str] = field(default_factory=Counter)
    """Models by the prompts they answered."""
    rubrics: Counter[str] = field(default_factory=Counter)
    temperatures: Counter[str] = field(default_factory=Counter)
    """By the completions that were sampled at them."""
    digests: array[int] = field(default_factory=lambda: array("Q"), repr=False)
    """Of each prompt, see `prompt_digest`."""

    def add_prompt(self, sampled: SampledPrompt, judgments: Iterable[Judgment], found: PairResult, rows: int) -> None:
        """Count what became of a prompt.

        Args:
            judgments: all of its judgments, unscored ones too.
            found: the pairs that are kept, and what was dropped by rule and filters.
            rows: that were written.
        """
        self.prompts += 1
        self.digests.append(int(compute_prompt_digest(sampled.row.prompt), 16))
        self.completions += len(sampled.responses)
        self.cut += sum(sampled.cut)
        self.policies.update([sampled.policy] if sampled.policy else ())
        self.temperatures.update(f"{temperature:g}" for temperature in sampled.temperatures)
        for judgment in judgments:
            self._count_judgment(judgment)
        self.rows += rows
        self.dropped.update(found.dropped)
        for pair in found.pairs:
            self._count_pair(pair)

    def drop_repeated_pairs(self, pairs: int, rows: int) -> None:
        """Count pairs, and their rows, as dropped that were counted as kept: those of a prompt that turned out to
        repeat another when shards were joined, see `SeenPrompts`. Lengths, margins and places still have them."""
        self.pairs -= pairs
        self.rows -= rows
        self.dropped["repeated_prompt"] += pairs

    def __add__(self, other: CardStats) -> CardStats:
        return CardStats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def repeated_prompts(self) -> int:
        """Prompts that had occurred before, not counting the first of each."""
        import numpy as np

        return len(self.digests) - len(np.unique(np.array(self.digests, dtype=np.uint64)))

    def to_json(self) -> dict[str, Any]:
        """As an object that JSON can hold, the same for the same counts."""
        return {f.name: _encode_value(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> CardStats:
        empty = cls()
        return cls(**{f.name: _decode_value(getattr(empty, f.name), row[f.name]) for f in fields(cls)})

    def _count_judgment(self, judgment: Judgment) -> None:
        self.judgments[str(judgment.status)] += 1
        self.judges.update([judgment.model] if judgment.model else ())
        self.rubrics.update([str(judgment.provenance["rubric"])] if "rubric" in judgment.provenance else ())
        for score in judgment.scores or ():
            self.scores.add(score)
        if judgment.disagreement is not None:
            self.orders["disagree" if judgment.disagreement else "agree"] += 1
        for vote in judgment.votes:
            if vote.scores is not None and len(vote.scores) == len(vote.order) == 2:
                won = vote.preferred
                self.places["tie" if won is None else ("first", "second")[vote.order.index(won)]] += 1

    def _count_pair(self, pair: Pair) -> None:
        chosen, rejected = len(pair.chosen.text), len(pair.rejected.text)
        self.pairs += 1
        self.chosen_cut += pair.chosen.cut
        self.chosen_is["longer" if chosen > rejected else "shorter" if chosen < rejected else "equal"] += 1
        self.sampled_first["chosen" if pair.chosen.index < pair.rejected.index else "rejected"] += 1
        self.length_chosen.add(chosen)
        self.length_rejected.add(rejected)
        self.margins.add(pair.margin)


def _encode_value(value: Any) -> Any:
    if isinstance(value, array):
        return base64.b64encode(_to_little_endian(value).tobytes()).decode()
    if isinstance(value, Counter):
        return {name: value[name] for name in sorted(value) if value[name]}
    return value.to_json() if isinstance(value, LogHistogram | ScoreHistogram) else value


def _decode_value(kind: Any, value: Any) -> Any:
    """A value as `_told` left it, as one of the same kind as another."""
    if isinstance(kind, array):
        return _to_little_endian(array("Q", base64.b64decode(value)))
    if isinstance(kind, Counter):
        return Counter(value)
    return type(kind).from_json(value) if isinstance(kind, LogHistogram | ScoreHistogram) else value


def _to_little_endian(numbers: array[int]) -> array[int]:
    """The numbers with their bytes in the order of small machines, or back."""
    if sys.byteorder == "little":
        return numbers
    swapped = array("Q", numbers)
    swapped.byteswap()
    return swapped
