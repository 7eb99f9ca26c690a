"""Preference pairs over a data set: sample answers to each prompt, judge them and pair them by a rule."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt, prompt_to_json, response_to_json
from flex_judge.alignment.pipeline.best_of_n import (
    check_judgments,
    judgment_to_json,
    make_sampled_row,
    needs_retry,
)
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.policies.base import Policy
from flex_judge.alignment.preferences.filters import FilterSpec, filter_pairs
from flex_judge.alignment.preferences.formats import FORMATS
from flex_judge.alignment.preferences.prompt_columns import has_images
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import make_rule
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.comparison_rows import COMPARISON, comparison_to_json
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.groups.methods import JudgeFunction


@dataclass(frozen=True)
class PreferencePlan:
    """Plan of preference work, see `flex_judge.alignment.pipeline.job.WorkPlan`."""

    models: Models
    sampling: Sampling
    samples: int
    """Number of answers per prompt and temperature."""
    rubric: str
    hot: float | None = None
    """Second sampling temperature, for the rule `two_temperatures`; None for a single temperature."""
    rule: RuleSpec = field(default_factory=RuleSpec)
    filters: FilterSpec = field(default_factory=FilterSpec)
    format: str = "preference"
    images: bool = False
    """Whether the data set is for models that take images."""
    molecules: bool = False
    """Whether the data set is for models that take molecules."""
    tables: tuple[str, ...] = ("preferences", "judgments", "completions")

    async def open(self) -> PreferenceWork:
        """Connect to or load the models."""
        policy, ask = await self.models.open()
        return PreferenceWork(self, policy, ask)


@dataclass(frozen=True)
class PreferenceWork:
    """Preference work on one prompt at a time; many run concurrently."""

    plan: PreferencePlan
    policy: Policy
    ask: JudgeFunction

    async def __call__(self, row: PromptRow) -> RowResult:
        """See `flex_judge.alignment.pipeline.job.Work`."""
        plan = self.plan
        rule = make_rule(plan.rule)
        # Checked before sampling: the format would reject the row only after all the work was done.
        if FORMATS[plan.format].takes_images and not plan.images and has_images(row):
            raise UsageError("has images, but the data set is for text models; use --with-images")
        sampled = await self._sample_answers(row)
        comparisons = rule.make_comparisons(sampled, plan.rubric)
        judgments = await gather_all(self._ask_judge(comparison) for comparison in comparisons)
        check_judgments(judgments)
        result = filter_pairs(rule.make_pairs(sampled, judgments), plan.filters)
        rows = FORMATS[plan.format].make_rows(result.pairs, plan.images, plan.molecules)
        stats = CardStats()
        stats.add_prompt(sampled, judgments, result, len(rows))
        completions = {
            "id": row.id,
            **prompt_to_json(row.prompt),
            "responses": [response_to_json(response) for response in sampled.responses],
            "temperatures": list(sampled.temperatures),
            "tokens": list(sampled.tokens),
            "cut": list(sampled.cut),
            "kept": dict(row.kept),
            **({"note": sampled.note} if sampled.note else {}),
        }
        judgment_rows = [
            {**judgment_to_json(judgment), "prompt": row.id, COMPARISON: comparison_to_json(comparison, row.where)}
            for judgment, comparison in zip(judgments, comparisons, strict=True)
        ]
        tables = {"preferences": rows, "judgments": judgment_rows, "completions": [completions]}
        return RowResult(tables, stats, needs_retry=needs_retry(judgments))

    async def _ask_judge(self, comparison: Comparison) -> Judgment:
        # `JudgeFunction` returns an awaitable; gathering needs a coroutine.
        return await self.ask(comparison)

    async def _sample_answers(self, row: PromptRow) -> SampledPrompt:
        """Sample the answers to a prompt, lower temperature first."""
        samplings = [self.plan.sampling]
        if self.plan.hot is not None:
            samplings.append(replace(self.plan.sampling, temperature=self.plan.hot))
        batches = await gather_all(
            self.policy.sample(row.prompt, sampling, range(self.plan.samples)) for sampling in samplings
        )
        completions = [completion for batch in batches for completion in batch]
        temperatures = [sampling.temperature for sampling in samplings for _ in range(self.plan.samples)]
        return make_sampled_row(row, completions, temperatures, self.policy)
