"""What a benchmark asks, what people said of it, and what a judge said. Plain and frozen; no model, no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flex_judge.judges.io.files import ComparisonFileRow
from flex_judge.judges.judgments import Judgment, Status, Verdict
from flex_judge.judges.protocol.voting import combine_votes
from flex_judge.judges.types import Comparison, content_to_text

NOT_JUDGED = "not_judged"
TIE = "tie"
"""The label, or the prediction, that neither of two responses is better."""
Label = int | float | str | tuple[int, ...]
"""What people said. Of a pair: the index of the better response, TIE, or an option (`A=B=Bad`). Of a single response: a
score. Of a batch: the responses' indexes, best first."""


@dataclass(frozen=True)
class Item:
    """One row of a benchmark."""

    row: ComparisonFileRow
    """What is judged; its media are read when it is."""
    task: str
    """The part of the benchmark that it belongs to; each has figures of its own."""
    label: Label | None
    """None of an item that is left out: nobody judges it, and it is counted by `left_out`."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """What it is counted by, such as `{"source": "coco"}`."""
    left_out: str = "people came to nothing"
    """Why, where it has no label."""

    @property
    def id(self) -> str:
        return self.row.id

    def make_runs(self, runs: int) -> list[ItemRun]:
        """What a judge is asked in so many independent runs."""
        return [ItemRun(self, run) for run in range(runs)]


@dataclass(frozen=True)
class ItemRun:
    """An item in one of the runs. Each run draws votes, and random orders, of its own."""

    item: Item
    run: int

    @property
    def id(self) -> str:
        return self.item.id if not self.run else f"{self.item.id}#{self.run + 1}"

    @property
    def where(self) -> str:
        return self.item.row.where

    def load_comparison(self) -> Comparison:
        """The comparison, media read; see `flex_judge.judges.io.files.Row`."""
        return replace(self.item.row.load_comparison(), id=self.id, sample_index=self.run)


@dataclass(frozen=True)
class ItemOutcome:
    """An item, and what a judge made of it."""

    item: Item
    judgments: tuple[Judgment, ...]
    """One of each run."""

    @cached_property
    def votes(self) -> tuple[Verdict, ...]:
        """The verdicts of all runs and orders."""
        return tuple(vote for judgment in self.judgments for vote in judgment.votes)

    @cached_property
    def combined_judgment(self) -> Judgment:
        """The judgment that all votes of all runs come to: voting."""
        return combine_votes(self.item.id, [[vote] for vote in self.votes])

    @property
    def score(self) -> float | None:
        """Of a single response: the mean of the runs that have a score."""
        scores = [judgment.scores[0] for judgment in self.judgments if judgment.scores]
        return sum(scores) / len(scores) if scores else None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Characters of each response as it stands in the data; media count nothing."""
        return tuple(len(_extract_text(response)) for response in self.item.row.data["responses"])


def make_placeholder_judgment(id: str, why: str) -> Judgment:
    """What stands for a judgment that nobody made: an image cannot be read, or a reply is missing. Unscored."""
    return Judgment.from_failure(id, Status.UNPARSEABLE, why, provenance={NOT_JUDGED: why})


def extract_prediction(said: Judgment | Verdict, by_options: bool = False) -> int | str | None:
    """What is predicted of a pair: the index of the better response, TIE or, by options, the option; None where there
    is no score."""
    if said.scores is None:
        return None
    if by_options:
        return said.choice or TIE
    return TIE if said.preferred is None else said.preferred


def _extract_text(response: Any) -> str:
    if isinstance(response, str):
        return response
    if isinstance(response, Mapping):
        return str(response.get("text") or "")
    return "".join(map(_extract_text, response)) if isinstance(response, Sequence) else content_to_text(response)
