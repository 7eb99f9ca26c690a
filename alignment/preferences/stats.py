"""Mergeable counts of a preference data set, collected shard by shard for the data card."""

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
from flex_judge.alignment.preferences.prompt_columns import has_tools
from flex_judge.judges.judgments import Judgment


@dataclass
class CardStats:
    """Counts of one shard or of a whole data set. Shards are merged with `+`, in any order.

    The size is bounded except for 8 bytes per prompt, which are needed to find repeated prompts (8 MB per million).
    """

    prompts: int = 0
    """Number of prompts read, without bad rows."""
    bad_rows: Counter[str] = field(default_factory=Counter)
    """Reason -> number of rows left out. Reasons must not name the row, so that their number stays small."""
    completions: int = 0
    cut: int = 0
    """Number of truncated completions."""
    judgments: Counter[str] = field(default_factory=Counter)
    """Status -> number of judgments."""
    pairs: int = 0
    rows: int = 0
    """Number of rows written; in some formats this differs from the number of pairs."""
    tool_pairs: int = 0
    """Number of pairs with tool calls, definitions of tools, names or reasoning."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Name in DROP_REASONS -> number of dropped pairs."""
    chosen_cut: int = 0
    """Number of truncated chosen answers."""
    chosen_is: Counter[str] = field(default_factory=Counter)
    """Pairs by length of the chosen answer in characters: `longer`, `shorter` or `equal`."""
    sampled_first: Counter[str] = field(default_factory=Counter)
    """Pairs by the side that was sampled first: `chosen` or `rejected`."""
    places: Counter[str] = field(default_factory=Counter)
    """Scored votes on two answers by the position of the winner: `first`, `second` or `tie`."""
    orders: Counter[str] = field(default_factory=Counter)
    """Judgments in several orders by whether the orders `agree` in all rounds or `disagree`."""
    length_chosen: LogHistogram = field(default_factory=LogHistogram)
    """Lengths of chosen answers in characters."""
    length_rejected: LogHistogram = field(default_factory=LogHistogram)
    """Lengths of rejected answers in characters."""
    scores: ScoreHistogram = field(default_factory=ScoreHistogram)
    """Scores of all answers, in a pair or not."""
    margins: ScoreHistogram = field(default_factory=ScoreHistogram)
    """Score differences of the pairs."""
    judges: Counter[str] = field(default_factory=Counter)
    """Judge model -> number of judgments."""
    policies: Counter[str] = field(default_factory=Counter)
    """Policy model -> number of prompts answered."""
    rubrics: Counter[str] = field(default_factory=Counter)
    """Rubric -> number of judgments."""
    temperatures: Counter[str] = field(default_factory=Counter)
    """Sampling temperature -> number of completions."""
    notes: Counter[str] = field(default_factory=Counter)
    """Note about the policy's prompt, see `SampledPrompt.note` -> number of prompts."""
    digests: array[int] = field(default_factory=lambda: array("Q"), repr=False)
    """Digest of each prompt, see `compute_prompt_digest`."""

    def add_prompt(self, sampled: SampledPrompt, judgments: Iterable[Judgment], result: PairResult, rows: int) -> None:
        """Count one prompt.

        Args:
            sampled: The prompt with its answers.
            judgments: All judgments of the prompt, including unscored ones.
            result: Pairs that passed the filters, and the counts of dropped ones.
            rows: Number of rows written.
        """
        self.prompts += 1
        # 64 bits as an integer: a hexadecimal string would take ten times the memory.
        self.digests.append(int(compute_prompt_digest(sampled.row.prompt), 16))
        self.completions += len(sampled.responses)
        self.cut += sum(sampled.cut)
        self.policies.update([sampled.policy] if sampled.policy else ())
        self.notes.update([sampled.note] if sampled.note else ())
        self.temperatures.update(f"{temperature:g}" for temperature in sampled.temperatures)
        for judgment in judgments:
            self._count_judgment(judgment)
        self.rows += rows
        self.dropped.update(result.dropped)
        for pair in result.pairs:
            self._count_pair(pair)

    def drop_repeated_pairs(self, pairs: int, rows: int) -> None:
        """Move pairs from the kept ones to the dropped ones (reason `repeated_prompt`).

        Repeated prompts are only found when the shards are joined, see `SeenPrompts`. The histograms and the counts by
        position still include these pairs.

        Args:
            pairs: Number of pairs.
            rows: Number of rows of these pairs.
        """
        self.pairs -= pairs
        self.rows -= rows
        self.dropped["repeated_prompt"] += pairs

    def __add__(self, other: CardStats) -> CardStats:
        """Merge the counts of two shards."""
        return CardStats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def repeated_prompts(self) -> int:
        """Number of prompts that occurred before, not counting first occurrences."""
        import numpy as np

        return len(self.digests) - len(np.unique(np.array(self.digests, dtype=np.uint64)))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values; equal counts give equal text."""
        return {f.name: _encode_value(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> CardStats:
        """Load counts from the result of `to_json`."""
        empty = cls()
        # Results of older versions lack newer counts.
        present = [f.name for f in fields(cls) if f.name in row]
        return cls(**{name: _decode_value(getattr(empty, name), row[name]) for name in present})

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
                winner = vote.preferred
                self.places["tie" if winner is None else ("first", "second")[vote.order.index(winner)]] += 1

    def _count_pair(self, pair: Pair) -> None:
        chosen, rejected = len(pair.chosen.text), len(pair.rejected.text)
        self.pairs += 1
        self.tool_pairs += has_tools(pair)
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
        # Sorted, so that equal counts give equal text whatever the order of counting.
        return {name: value[name] for name in sorted(value) if value[name]}
    return value.to_json() if isinstance(value, LogHistogram | ScoreHistogram) else value


def _decode_value(template: Any, value: Any) -> Any:
    """Decode the result of `_encode_value` to the type of `template`."""
    if isinstance(template, array):
        return _to_little_endian(array("Q", base64.b64decode(value)))
    if isinstance(template, Counter):
        return Counter(value)
    return type(template).from_json(value) if isinstance(template, LogHistogram | ScoreHistogram) else value


def _to_little_endian(numbers: array[int]) -> array[int]:
    """Convert between native and little-endian byte order, in either direction."""
    if sys.byteorder == "little":
        return numbers
    converted = array("Q", numbers)
    converted.byteswap()
    return converted
