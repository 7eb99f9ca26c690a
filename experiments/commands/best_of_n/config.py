"""Settings of `flex-judge best-of-n`."""

from __future__ import annotations

from flex_judge.alignment.best_of_n.selection import Method, SelectionSpec
from flex_judge.experiments.common.data_runs.config import DataFlags, out_setting
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import Fraction, PositiveInt, settings_class

_SELECTION = "selection"
"""Heading in the help."""


@settings_class(kw_only=True)
class BestOfNRun(DataFlags):
    """Settings of a best-of-N run."""

    out: str = out_setting("runs/best-of-n")
    method: Method = setting("pointwise", "Method that selects the best answer", group=_SELECTION)
    halving_votes: PositiveInt = setting(
        SelectionSpec.votes,
        "Maximum number of judgments per answer for --method halving",
        metavar="K",
        group=_SELECTION,
    )
    halving_budget: Fraction = setting(
        SelectionSpec.budget,
        "Budget of --method halving, as a fraction of --halving-votes judgments for every answer",
        metavar="SHARE",
        group=_SELECTION,
    )

    def __post_init__(self) -> None:
        if self.method == "halving" and self.judge.settings.temperature == 0:
            raise UsageError(
                "--method halving needs a --temperature above 0: it repeats judgments, and greedy ones are all the same"
            )
        super().__post_init__()

    @property
    def comparisons_per_prompt(self) -> int:
        """Maximum number of comparisons of one prompt that run at the same time."""
        # A knock-out and successive halving have fewer in later rounds; the first round decides the concurrency.
        n = self.num_answers
        comparisons = {"listwise": 1, "round_robin": n * (n - 1) // 2, "swiss": n // 2, "knockout": n // 2}
        return max(1, comparisons.get(self.method, n))

    def build_selection(self, file: str | None) -> SelectionSpec:
        """Build the settings of the selection; the default rubric depends on the file."""
        return SelectionSpec(
            self.method, self.resolve_rubric(file), self.judge.engine.seed, self.halving_votes, self.halving_budget
        )
