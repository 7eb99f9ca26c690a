"""Settings of the molecule case study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

from annotated_types import Ge

from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.flags import format_flag, make_config, setting
from flex_judge.experiments.studies.pampa.task import ABOUT, CLASSES, FINAL, QUESTION, STYLES, ClassificationTask
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

_TASK, _STEPS = "task", "steps"
PAPER_RULE = "two_temperatures"


@settings_class
class CaseStudyRun:
    """Settings of a run."""

    data: str | None = setting(
        None,
        "Table with SMILES and classes: PAMPA_NCATS of TDC, or another; or pampa.json of Mol-LLaMA",
        metavar="FILE",
        group=_TASK,
    )
    smiles: str | None = setting(None, "Column of the SMILES (default: Drug or smiles)", metavar="COLUMN", group=_TASK)
    label: str | None = setting(None, "Column of the classes (default: Y or label)", metavar="COLUMN", group=_TASK)
    classes: tuple[str, ...] = setting(
        CLASSES, "Class, as VALUE=NAME|SYNONYM|...; may be repeated", metavar="CLASS", group=_TASK
    )
    question: str = setting(QUESTION, "Question, with <mol> in place of the molecule", metavar="TEXT", group=_TASK)
    about: str = setting(ABOUT, "Description of the task for the style task-info", metavar="TEXT", group=_TASK)
    rubric: str = setting("membrane_permeability", "Rubric of single answers", metavar="NAME", group=_TASK)
    pair_rubric: str = setting("general", "Rubric of pairs, for --rule two_temperatures", metavar="NAME", group=_TASK)
    style: tuple[str, ...] = setting(
        STYLES, f"Prompt style: {', '.join(STYLES)}; may be repeated", metavar="STYLE", group=_TASK
    )
    limit: PositiveInt | None = setting(
        None, "Evaluate on N random molecules of the test split only (default: all)", metavar="N", group=_TASK
    )
    policy: str | None = setting(
        None, "Policy: a Mol-LLaMA (folder or hub id), or any model", metavar="MODEL", group=_STEPS
    )
    judge: str | None = setting(None, "Judge model: folder or hub id", metavar="MODEL", group=_STEPS)
    samples: Annotated[int, Ge(2)] = setting(16, "Number of sampled answers per molecule", metavar="N", group=_STEPS)
    sample_temperature: float = setting(0.8, "Sampling temperature of the policy", metavar="T", group=_STEPS)
    sample_tokens: PositiveInt = setting(512, "Maximum answer length in tokens", metavar="N", group=_STEPS)
    second_pass: bool = setting(
        True,
        f"Also continue answers without '{FINAL}' after these words, as the published evaluation does",
        group=_STEPS,
    )
    max_think_tokens: PositiveInt = setting(2048, "Thinking budget of the judge in tokens", metavar="N", group=_STEPS)
    hot_temperature: float = setting(1.2, "Higher temperature of --rule two_temperatures", metavar="T", group=_STEPS)
    train: NonNegativeInt | None = setting(
        None,
        "Make DPO pairs from N random molecules of the training split (default: all); 0: no DPO",
        metavar="N",
        group=_STEPS,
    )
    preferences: str | None = setting(
        None, "Train on existing pairs instead: data as flex-judge dpo takes it", metavar="DATA", group=_STEPS
    )
    rule: Literal["two_temperatures", "highest_lowest"] = setting(
        PAPER_RULE,
        "Rule that makes the pairs: two_temperatures is the paper's, highest_lowest takes --samples answers",
        group=_STEPS,
    )
    dpo: tuple[str, ...] = setting(
        (), "Flag for flex-judge dpo, as NAME=VALUE; may be repeated", metavar="FLAG", group=_STEPS
    )
    seed: int = setting(0, "Seed of samples and random choices", metavar="N", group=_STEPS)
    out: str = setting("runs/pampa", "Output folder; an existing run there is resumed", metavar="DIR")

    def __post_init__(self) -> None:
        """Reject settings that are missing, unknown or contradictory."""
        for style in self.style:
            if style not in STYLES:
                raise UsageError(f"--style {style}: expected one of {', '.join(STYLES)}")
        # Required settings default to None, because they may come from the configuration file.
        for name in ("data", "policy", "judge"):
            if not getattr(self, name):
                raise UsageError(f"--{name} is required")
        load_rubric(self.rubric).check_response_count(1)
        load_rubric(self.pair_rubric).check_response_count(2)
        _check_dpo_flags(self.dpo)
        # The settings of later steps are checked here, before anything expensive is started.
        make_config(PreferenceRun, **self.pair_settings)

    @property
    def pair_settings(self) -> dict[str, Any]:
        """Settings of `flex-judge preferences` for making the pairs."""
        settings: dict[str, Any] = {"rule": self.rule, "sample_temperature": self.sample_temperature}
        if self.rule == PAPER_RULE:
            return settings | {"rubric": self.pair_rubric, "hot_temperature": self.hot_temperature}
        return settings | {"rubric": self.rubric, "samples": self.samples}

    @property
    def pair_flags(self) -> list[str]:
        """Flags of `flex-judge preferences` for making the pairs."""
        return [text for name, value in self.pair_settings.items() for text in (format_flag(name), str(value))]

    @property
    def is_published_setup(self) -> bool:
        """Whether the question, its classes and its rubric are the published ones, and all molecules are used."""
        return self.limit is None and not self.has_own_question and self.rubric == _DEFAULTS["rubric"]

    @property
    def has_own_question(self) -> bool:
        """Whether the user has changed the question, which then replaces the prompts of a released file."""
        return any(getattr(self, name) != _DEFAULTS[name] for name in ("question", "about", "classes"))

    @property
    def task(self) -> ClassificationTask:
        """Classification task of the run."""
        return ClassificationTask.from_classes(self.classes, self.question, self.about)


_DEFAULTS = {f.name: f.default for f in fields(CaseStudyRun)}
PUBLISHED_DPO = {
    "beta": 0.1,
    "learning_rate": 1e-5,
    "weight_decay": 0.05,
    "warmup_steps": 0.25,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
}
"""DPO settings of the paper, with 32 pairs per step.

The paper's 100 warm-up steps are a quarter of the steps that its 4,253 pairs take. The fraction is used here, because
with fewer pairs 100 steps could be the whole training.
"""


def _check_dpo_flags(flags: Sequence[str]) -> None:
    """Raise UsageError for a flag that `flex-judge dpo` does not have, before anything is started."""
    if not flags:
        return
    from trl import DPOConfig, ModelConfig

    names = {f.name for kind in (DPOConfig, ModelConfig) for f in fields(kind)}
    for flag in flags:
        name, equals, _ = flag.partition("=")
        if not equals:
            raise UsageError(f"--dpo {flag}: expected NAME=VALUE, such as num_train_epochs=3")
        if name not in names:
            raise UsageError(f"--dpo {flag}: flex-judge dpo has no such flag; flex-judge dpo --help lists them")
