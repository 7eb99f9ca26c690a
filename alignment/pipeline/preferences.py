"""Preference pairs over a data set: each prompt is sampled, its answers are judged as a rule needs it, and the pairs
that pass the filters are written in a trainer's format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.pipeline.best_of_n import (
    check_engine_lost,
    judgment_to_json,
    make_sampled_row,
    message_to_json,
    needs_retry,
)
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.preferences.filters import FilterSpec, filter_pairs
from flex_judge.alignment.preferences.formats import FORMATS, has_images
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import make_rule
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.methods import Ask


@dataclass(frozen=True)
class PreferencePlan:
    """Sampling and pairing, see `flex_judge.alignment.pipeline.job.WorkPlan`."""

    models: Models
    sampling: Sampling
    samples: int
    """Answers at each temperature."""
    rubric: str
    hot: float | None = None
    """A second temperature to sample at, as the rule `two_temperatures` needs it; None for none."""
    rule: RuleSpec = field(default_factory=RuleSpec)
    filters: FilterSpec = field(default_factory=FilterSpec)
    format: str = "preference"
    images: bool = False
    """Whether the data set is for models that see images."""
    molecules: bool = False
    """Whether it is for models that see molecules."""
    tables: tuple[str, ...] = ("preferences", "judgments", "completions")

    async def open(self) -> PreferenceWork:
        policy, ask = await self.models.open()
        return PreferenceWork(self, policy, ask)


@dataclass(frozen=True)
class PreferenceWork:
    """Works on one prompt after another, many at a time."""

    plan: PreferencePlan
    policy: Policy
    ask: Ask

    async def __call__(self, row: PromptRow) -> RowResult:
        plan = self.plan
        rule = make_rule(plan.rule)
        if FORMATS[plan.format].takes_images and not plan.images and has_images(row):
            raise UsageError("has images, and the data set is made for text models; use --with-images")
        sampled = await self._sample_answers(row)
        judgments = await gather_all(self._ask_judge(c) for c in rule.make_comparisons(sampled, plan.rubric))
        check_engine_lost(judgments)
        found = filter_pairs(rule.make_pairs(sampled, judgments), plan.filters)
        rows = FORMATS[plan.format].make_rows(found.pairs, plan.images, plan.molecules)
        stats = CardStats()
        stats.add_prompt(sampled, judgments, found, len(rows))
        completions = {
            "id": row.id,
            "prompt": [message_to_json(message) for message in row.prompt],
            "responses": list(sampled.responses),
            "temperatures": list(sampled.temperatures),
            "tokens": list(sampled.tokens),
            "cut": list(sampled.cut),
            "kept": dict(row.kept),
        }
        told = [{**judgment_to_json(judgment), "prompt": row.id} for judgment in judgments]
        tables = {"preferences": rows, "judgments": told, "completions": [completions]}
        return RowResult(tables, stats, again=needs_retry(judgments))

    async def _ask_judge(self, comparison: Comparison) -> Judgment:
        return await self.ask(comparison)

    async def _sample_answers(self, row: PromptRow) -> SampledPrompt:
        """The prompt with its answers, those of the lower temperature first."""
        cold = self.plan.sampling
        samplings = [cold] if self.plan.hot is None else [cold, replace(cold, temperature=self.plan.hot)]
        drawn = await gather_all(self.policy.sample(row.prompt, s, range(self.plan.samples)) for s in samplings)
        temperatures = [s.temperature for s in samplings for _ in range(self.plan.samples)]
        return make_sampled_row(row, [c for completions in drawn for c in completions], temperatures, self.policy)
