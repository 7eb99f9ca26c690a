"""Settings of `flex-judge preferences`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.preferences.filters import FilterSpec
from flex_judge.alignment.preferences.formats import FORMATS
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import make_rule
from flex_judge.experiments.common.data_runs.config import DataFlags, out_setting
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.errors import UsageError
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.validation.classes import settings_class
from flex_judge.judges.validation.flat import SettingsSection

_PAIRS, _FILTERS, _RESULTS = "pairs", "filters", "results"
"""Headings in the help."""
TEXT_FORMATS = tuple(name for name in FORMATS if name != "image_pairs")
"""Formats with text answers, which is what policies give."""


@settings_class(kw_only=True)
class PreferenceRun(DataFlags):
    """Settings of a run that builds a preference data set."""

    out: str = out_setting("runs/preferences")
    format: str = setting("preference", "TRL format of the rows", choices=TEXT_FORMATS, group=_RESULTS)
    file_format: Literal["jsonl", "parquet"] = setting("jsonl", "File format of the data set", group=_RESULTS)
    with_images: bool = setting(False, "Write an images column, for policies with vision", group=_RESULTS)
    with_molecules: bool = setting(
        False,
        "Write a molecules column with SMILES and <mol> in the text, for policies with a molecule encoder",
        group=_RESULTS,
    )
    rule_spec: Annotated[RuleSpec, SettingsSection(_PAIRS)]
    hot_temperature: float = setting(
        1.2,
        "Higher sampling temperature of --rule two_temperatures; --sample-temperature is the lower",
        metavar="T",
        group=_PAIRS,
    )
    filters: Annotated[FilterSpec, SettingsSection(_FILTERS)]

    def __post_init__(self) -> None:
        super().__post_init__()
        # Everything here fails before a model is loaded.
        FORMATS[self.format].check_media(self.with_images, self.with_molecules)
        if self.is_two_temperatures:
            if not self.hot_temperature > self.sample_temperature > 0:
                raise UsageError("--hot-temperature must be above --sample-temperature, and both above 0")
            if self.samples not in (None, 1):
                raise UsageError("--rule two_temperatures samples one answer per temperature; leave --samples out")
            if self.judge_url:
                # The orders are settings of the service, which a client cannot change.
                raise UsageError("--rule two_temperatures needs a judge that reads both orders; leave --judge-url out")
        make_rule(self.rule_spec).check_temperatures(self.temperatures)

    @property
    def is_two_temperatures(self) -> bool:
        """Whether answers are sampled at two temperatures."""
        return self.rule_spec.rule == "two_temperatures"

    @property
    def num_answers(self) -> int:
        """Number of answers per prompt and temperature."""
        return 1 if self.is_two_temperatures else super().num_answers

    @property
    def temperatures(self) -> list[float]:
        """Sampling temperatures of the answers to a prompt."""
        if self.is_two_temperatures:
            return [self.sample_temperature, self.hot_temperature]
        return [self.sample_temperature] * self.num_answers

    def build_settings(self, model: str) -> JudgeSettings:
        """Build the settings of the judge; the rule two_temperatures overrides the order with both orders."""
        settings = super().build_settings(model)
        return replace(settings, order="both") if self.is_two_temperatures else settings

    def make_plan(self, models: Models, file: str | None) -> PreferencePlan:
        """Make the plan of a run; the defaults of sampling and rubric depend on the file."""
        return PreferencePlan(
            models,
            self.build_sampling(file),
            self.num_answers,
            self.resolve_rubric(file),
            self.hot_temperature if self.is_two_temperatures else None,
            self.rule_spec,
            self.filters,
            self.format,
            self.with_images,
            self.with_molecules,
        )
