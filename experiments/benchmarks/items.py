"""Items of a benchmark, their human labels, and the judge's outcomes."""

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
OFF_SCALE = "off_scale"
"""Key in a judgment's provenance: the number of its replies whose scores are off the rubric's scale."""
TIE = "tie"
"""Label or prediction that neither of two responses is better."""
ANY_TIE = "A=B"
"""Prediction by options that neither response is better, without saying whether both are good or bad."""
Label = int | float | str | tuple[int, ...]
"""Human label: for a pair, the index of the better response, TIE, or an option (`A=B=Bad`); for a single response, a
score; for a ranking, the response indexes, best first."""


@dataclass(frozen=True)
class Item:
    """One row of a benchmark."""

    row: ComparisonFileRow
    """Content to judge; media are read when it is judged."""
    task: str
    """Task of the benchmark; each task has its own metrics."""
    label: Label | None
    """Human label; None if the item is left out: it is not judged, and counted under `left_out`."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups for tables, such as `{"source": "coco"}`."""
    left_out: str = "the annotators did not agree"
    """Reason for leaving the item out, if it has no label."""
    in_published: bool = True
    """Whether the makers' scripts count the item; if not, only this project's metrics do."""

    @property
    def id(self) -> str:
        """Id of the item."""
        return self.row.id

    def make_runs(self, runs: int) -> list[ItemRun]:
        """Make the item's requests for a number of independent runs."""
        return [ItemRun(self, run) for run in range(runs)]


@dataclass(frozen=True)
class ItemRun:
    """One item in one run. Each run samples its own votes and random orders."""

    item: Item
    run: int

    @property
    def id(self) -> str:
        """Id of the judgment: the item's id, with the number of the run from the second one on."""
        return self.item.id if not self.run else f"{self.item.id}#{self.run + 1}"

    @property
    def where(self) -> str:
        """File and row of the item."""
        return self.item.row.where

    def load_comparison(self) -> Comparison:
        """Load the comparison with its media, see `flex_judge.judges.io.files.ComparisonFileRow`."""
        return replace(self.item.row.load_comparison(), id=self.id, sample_index=self.run)


@dataclass(frozen=True)
class ItemOutcome:
    """An item with its judgments."""

    item: Item
    judgments: tuple[Judgment, ...]
    """One judgment per run."""

    @cached_property
    def votes(self) -> tuple[Verdict, ...]:
        """Verdicts of all runs and orders."""
        return tuple(vote for judgment in self.judgments for vote in judgment.votes)

    @cached_property
    def combined_judgment(self) -> Judgment:
        """Judgment by majority of all votes of all runs."""
        # Each vote is a round of its own, so that runs with different orders can be combined.
        return combine_votes(self.item.id, [[vote] for vote in self.votes])

    @property
    def score(self) -> float | None:
        """Score of a single response: the mean over the scored runs."""
        scores = [judgment.scores[0] for judgment in self.judgments if judgment.scores]
        return sum(scores) / len(scores) if scores else None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of characters of each response in the data; media count nothing."""
        return tuple(len(_extract_text(response)) for response in self.item.row.data["responses"])

    @property
    def is_better_longer(self) -> bool | None:
        """Whether the response that people prefer is the longer one; None for a tie or equal lengths."""
        better = BETTER_OPTIONS.get(str(self.item.label), self.item.label)
        lengths = self.lengths
        if len(lengths) != 2 or better not in (0, 1) or lengths[0] == lengths[1]:
            return None
        return better == int(lengths[1] > lengths[0])


BETTER_OPTIONS = {"A>B": 0, "B>A": 1}
"""Option -> index of the better response."""


def make_placeholder_judgment(id: str, reason: str) -> Judgment:
    """Make an unscored judgment for an item that was not judged, such as an unreadable image or a missing reply."""
    return Judgment.from_failure(id, Status.UNPARSEABLE, reason, provenance={NOT_JUDGED: reason})


def extract_prediction(judgment: Judgment | Verdict, by_options: bool = False) -> int | str | None:
    """Extract the prediction for a pair.

    Args:
        judgment: Judgment or vote.
        by_options: Whether the rubric asks for one of four options.

    Returns:
        The index of the better response, TIE, or (by options) the option; None without a score.
    """
    if judgment.scores is None:
        return None
    if by_options:
        return judgment.choice or TIE
    return TIE if judgment.preferred is None else judgment.preferred


def is_right(prediction: int | str | None, label: Label | None) -> bool:
    """Return whether a prediction agrees with a label; `A=B` agrees with both kinds of ties."""
    return prediction == label or (prediction == ANY_TIE and str(label).startswith(f"{ANY_TIE}="))


def _extract_text(response: Any) -> str:
    if isinstance(response, str):
        return response
    if isinstance(response, Mapping):
        return str(response.get("text") or "")
    return "".join(map(_extract_text, response)) if isinstance(response, Sequence) else content_to_text(response)
