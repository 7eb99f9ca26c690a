"""Best-of-N over a data set: sample answers to each prompt, judge them, keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flex_judge.alignment.best_of_n.selection import Selection, SelectionSpec, select_best
from flex_judge.alignment.data.rows import PromptRow, SampledPrompt, prompt_to_json, response_to_json
from flex_judge.alignment.pipeline.job import InvalidInputError, RowResult
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.io.comparison_rows import COMPARISON, comparison_to_json
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison, content_to_text
from flex_judge.reward.groups.methods import JudgeFunction


@dataclass(frozen=True)
class BestOfNPlan:
    """Plan of best-of-N work, see `flex_judge.alignment.pipeline.job.WorkPlan`."""

    models: Models
    sampling: Sampling
    samples: int
    """Number of answers per prompt."""
    selection: SelectionSpec
    tables: tuple[str, ...] = ("best_of_n", "judgments")

    async def open(self) -> BestOfNWork:
        """Connect to or load the models."""
        policy, ask = await self.models.open()
        return BestOfNWork(self, policy, ask)


@dataclass(frozen=True)
class BestOfNWork:
    """Best-of-N work on one prompt at a time; many run concurrently."""

    plan: BestOfNPlan
    policy: Policy
    ask: JudgeFunction

    async def __call__(self, row: PromptRow) -> RowResult:
        """See `flex_judge.alignment.pipeline.job.Work`."""
        completions = await self.policy.sample(row.prompt, self.plan.sampling, range(self.plan.samples))
        temperatures = [self.plan.sampling.temperature] * len(completions)
        sampled = make_sampled_row(row, completions, temperatures, self.policy)
        selection = await select_best(row.prompt, sampled.responses, self.plan.selection, self.ask, row.id)
        check_judgments(selection.judgments)
        judgment_rows = [
            {
                **judgment_to_json(judgment),
                "prompt": row.id,
                "responses": list(members),
                COMPARISON: comparison_to_json(self._rebuild_comparison(sampled, members), row.where),
            }
            for judgment, members in zip(selection.judgments, selection.judged, strict=True)
        ]
        tables = {"best_of_n": [make_best_of_n_row(sampled, selection)], "judgments": judgment_rows}
        return RowResult(tables, needs_retry=needs_retry(selection.judgments))

    def _rebuild_comparison(self, sampled: SampledPrompt, members: Sequence[int]) -> Comparison:
        responses = tuple(sampled.responses[member] for member in members)
        return Comparison(sampled.row.id, sampled.row.prompt, responses, self.plan.selection.rubric)


def make_sampled_row(
    row: PromptRow, completions: list[Completion], temperatures: list[float], policy: Policy
) -> SampledPrompt:
    """Combine a prompt with its completions.

    Args:
        row: The prompt.
        completions: Completions of the prompt.
        temperatures: Sampling temperature of each completion.
        policy: The policy that sampled them.
    """
    return SampledPrompt(
        row,
        tuple(c.response for c in completions),
        tuple(temperatures),
        tuple(c.tokens for c in completions),
        tuple(c.cut for c in completions),
        policy.model_id,
        completions[0].note if completions else "",
    )


def check_judgments(judgments: Sequence[Judgment]) -> None:
    """Check that the judgments of a prompt say something about its answers.

    Raises:
        InvalidInputError: No comparison can be judged.
        EngineLostError: No judgment has a verdict and each failed for a transient reason: the judge crashed or timed
            out, which says nothing about the answers.
    """
    if judgments and all(j.status == Status.INVALID_INPUT for j in judgments):
        raise InvalidInputError(judgments[0].detail)
    if judgments and all(j.scores is None and not j.status.is_final for j in judgments):
        reason = next((j.detail for j in judgments if j.detail), str(judgments[0].status))
        raise EngineLostError(f"all {len(judgments)} judgments were lost: {reason}")


def needs_retry(judgments: Sequence[Judgment]) -> bool:
    """Return whether a rerun may give more verdicts."""
    return any(not judgment.status.is_final for judgment in judgments)


def make_best_of_n_row(sampled: SampledPrompt, selection: Selection) -> dict[str, Any]:
    """Make the row of the table `best_of_n` for one prompt."""
    return {
        "id": sampled.row.id,
        **prompt_to_json(sampled.row.prompt),
        "responses": [response_to_json(response) for response in sampled.responses],
        "scores": list(selection.scores),
        "expected_scores": list(selection.expected_scores),
        "win_rates": list(selection.win_rates),
        "statuses": [str(candidate.status) for candidate in selection.candidates],
        "ranking": list(selection.ranking),
        "best": selection.best,
        "text": None if selection.best is None else content_to_text(sampled.responses[selection.best]),
        "tied": selection.tied,
        "judgments": len(selection.judgments),
        "tokens": list(sampled.tokens),
        "cut": list(sampled.cut),
        "policy": sampled.policy,
        "kept": dict(sampled.row.kept),
        **({"note": sampled.note} if sampled.note else {}),
    }


def judgment_to_json(judgment: Judgment) -> dict[str, Any]:
    """Convert a judgment to JSON values that are the same in every run with the same judge and answers.

    The replica and its cached tokens are left out, because they depend on the load.
    """
    provenance = {name: value for name, value in judgment.provenance.items() if name != "replica"}
    usage = replace(judgment.usage, cached_tokens=0)
    row = replace(judgment, provenance=provenance, usage=usage).to_json()
    del row["usage"]["cached_tokens"]
    return row
