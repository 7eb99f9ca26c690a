"""Settings of `flex-judge best-of-n`."""

from __future__ import annotations

from flex_judge.alignment.best_of_n.selection import Method, SelectionSpec
from flex_judge.experiments.common.data_runs.config import DataFlags, out_setting
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import Fraction, PositiveInt, settings_class

_SELECTION = "selection"
"""Heading of the help."""


@settings_class(kw_only=True)
class BestOfNRun(DataFlags):
    """Settings of a run."""

    out: str = out_setting("runs/best-of-n")
    method: Method = setting("pointwise", "How the best answer is found", group=_SELECTION)
    halving_votes: PositiveInt = setting(
        SelectionSpec.votes, "halving: maximum number of judgments per answer", metavar="K", group=_SELECTION
    )
    halving_budget: Fraction = setting(
        SelectionSpec.budget, "halving: fraction of all those judgments to spend", metavar="SHARE", group=_SELECTION
    )

    def __post_init__(self) -> None:
        if self.method == "halving" and self.judge.settings.temperature == 0:
            raise UsageError("--method halving asks a judge again, which takes a --temperature above 0")
        super().__post_init__()

    @property
    def comparisons_per_prompt(self) -> int:
        """Comparisons of a prompt that are under way at once."""
        n = self.num_answers
        return max(1, {"listwise": 1, "round_robin": n * (n - 1) // 2, "knockout": n // 2}.get(self.method, n))

    def build_selection(self, file: str | None) -> SelectionSpec:
        return SelectionSpec(
            self.method, self.resolve_rubric(file), self.judge.engine.seed, self.halving_votes, self.halving_budget
        )
