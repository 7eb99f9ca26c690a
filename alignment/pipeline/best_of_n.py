"""Best-of-N over a data set: each prompt is sampled, its answers are judged, the best is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flex_judge.alignment.best_of_n.selection import Selection, SelectionSpec, select_best
from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Message, split_content
from flex_judge.reward.groups.methods import Ask


@dataclass(frozen=True)
class BestOfNPlan:
    """Sampling and choosing, see `flex_judge.alignment.pipeline.job.WorkPlan`."""

    models: Models
    sampling: Sampling
    samples: int
    selection: SelectionSpec
    tables: tuple[str, ...] = ("best_of_n", "judgments")

    async def open(self) -> BestOfNWork:
        policy, ask = await self.models.open()
        return BestOfNWork(self, policy, ask)


@dataclass(frozen=True)
class BestOfNWork:
    """Works on one prompt after another, many at a time."""

    plan: BestOfNPlan
    policy: Policy
    ask: Ask

    async def __call__(self, row: PromptRow) -> RowResult:
        completions = await self.policy.sample(row.prompt, self.plan.sampling, range(self.plan.samples))
        sampled = make_sampled_row(row, completions, [self.plan.sampling.temperature] * len(completions), self.policy)
        selection = await select_best(row.prompt, sampled.responses, self.plan.selection, self.ask, row.id)
        check_engine_lost(selection.judgments)
        judgments = zip(selection.judgments, selection.judged, strict=True)
        told = [{**judgment_to_json(j), "prompt": row.id, "responses": list(about)} for j, about in judgments]
        tables = {"best_of_n": [make_best_of_n_row(sampled, selection)], "judgments": told}
        return RowResult(tables, again=needs_retry(selection.judgments))


def make_sampled_row(
    row: PromptRow, completions: list[Completion], temperatures: list[float], policy: Policy
) -> SampledPrompt:
    """A prompt with the completions that a policy gave."""
    return SampledPrompt(
        row,
        tuple(c.text for c in completions),
        tuple(temperatures),
        tuple(c.tokens for c in completions),
        tuple(c.cut for c in completions),
        policy.model_id,
    )


def check_engine_lost(judgments: Sequence[Judgment]) -> None:
    """Raise EngineLostError where no judgment has a verdict and all might have had: the judge was lost or late, which
    says nothing of the answers."""
    if judgments and all(j.scores is None and not j.status.is_final for j in judgments):
        why = next((vote.detail for j in judgments for vote in j.votes if vote.detail), str(judgments[0].status))
        raise EngineLostError(f"none of {len(judgments)} judgments came to an end: {why}")


def needs_retry(judgments: Sequence[Judgment]) -> bool:
    """Whether another try may come to more verdicts."""
    return any(not judgment.status.is_final for judgment in judgments)


def make_best_of_n_row(sampled: SampledPrompt, selection: Selection) -> dict[str, Any]:
    """What is written of a prompt."""
    return {
        "id": sampled.row.id,
        "prompt": [message_to_json(message) for message in sampled.row.prompt],
        "responses": list(sampled.responses),
        "scores": list(selection.scores),
        "expected_scores": list(selection.expected_scores),
        "win_rates": list(selection.win_rates),
        "statuses": [str(candidate.status) for candidate in selection.candidates],
        "ranking": list(selection.ranking),
        "best": selection.best,
        "text": None if selection.best is None else sampled.responses[selection.best],
        "tied": selection.tied,
        "judgments": len(selection.judgments),
        "tokens": list(sampled.tokens),
        "cut": list(sampled.cut),
        "policy": sampled.policy,
        "kept": dict(sampled.row.kept),
    }


def message_to_json(message: Message) -> dict[str, Any]:
    """A message as JSON holds it; a medium is named by its digest, and stays where it was."""
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": str(part.modality), "digest": part.digest}
        for part in split_content(message.content)
    ]
    return {"role": message.role, "content": parts}


def judgment_to_json(judgment: Judgment) -> dict[str, Any]:
    """A judgment without what differs from run to run though judge and answers are the same: which replica it was, and
    what that one had in its cache."""
    provenance = {name: value for name, value in judgment.provenance.items() if name != "replica"}
    usage = replace(judgment.usage, cached_tokens=0)
    row = replace(judgment, provenance=provenance, usage=usage).to_json()
    del row["usage"]["cached_tokens"]
    return row
