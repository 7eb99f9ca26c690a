"""Preference pairs over a data set: each prompt is sampled, its answers are judged as a rule needs it, and the pairs
that pass the filters are written in a trainer's format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flex_judge.alignment.data.rows import PromptRow, Sampled
from flex_judge.alignment.pipeline.best_of_n import check_engine_lost, message_json, sampled_of, stable, unfinished
from flex_judge.alignment.pipeline.job import Outcome
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.preferences.filters import FilterSpec, filtered
from flex_judge.alignment.preferences.formats import FORMATS, sees_images
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

    async def open(self) -> Preferences:
        policy, ask = await self.models.open()
        return Preferences(self, policy, ask)


@dataclass(frozen=True)
class Preferences:
    """Works on one prompt after another, many at a time."""

    plan: PreferencePlan
    policy: Policy
    ask: Ask

    async def __call__(self, row: PromptRow) -> Outcome:
        plan = self.plan
        rule = make_rule(plan.rule)
        if FORMATS[plan.format].takes_images and not plan.images and sees_images(row):
            raise UsageError("has images, and the data set is made for text models; use --with-images")
        sampled = await self._sampled(row)
        judgments = await gather_all(self._judged(c) for c in rule.comparisons(sampled, plan.rubric))
        check_engine_lost(judgments)
        found = filtered(rule.pairs(sampled, judgments), plan.filters)
        rows = FORMATS[plan.format].rows(found.pairs, plan.images, plan.molecules)
        stats = CardStats()
        stats.add(sampled, judgments, found, len(rows))
        completions = {
            "id": row.id,
            "prompt": [message_json(message) for message in row.prompt],
            "responses": list(sampled.responses),
            "temperatures": list(sampled.temperatures),
            "tokens": list(sampled.tokens),
            "cut": list(sampled.cut),
            "kept": dict(row.kept),
        }
        told = [{**stable(judgment), "prompt": row.id} for judgment in judgments]
        tables = {"preferences": rows, "judgments": told, "completions": [completions]}
        return Outcome(tables, stats, again=unfinished(judgments))

    async def _judged(self, comparison: Comparison) -> Judgment:
        return await self.ask(comparison)

    async def _sampled(self, row: PromptRow) -> Sampled:
        """The prompt with its answers, those of the lower temperature first."""
        cold = self.plan.sampling
        samplings = [cold] if self.plan.hot is None else [cold, replace(cold, temperature=self.plan.hot)]
        drawn = await gather_all(self.policy.sample(row.prompt, s, range(self.plan.samples)) for s in samplings)
        temperatures = [s.temperature for s in samplings for _ in range(self.plan.samples)]
        return sampled_of(row, [c for completions in drawn for c in completions], temperatures, self.policy)
