"""Settings of the case study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

from annotated_types import Ge

from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.flags import format_flag, make_config, setting
from flex_judge.experiments.studies.pampa.task import ABOUT as TOLD
from flex_judge.experiments.studies.pampa.task import CLASSES, QUESTION, STYLES, ClassificationTask
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

_TASK, _STEPS = "the task", "the steps"
PAPER_RULE = "two_temperatures"


@settings_class
class CaseStudyRun:
    """Settings of a run."""

    data: str | None = setting(
        None, "Table with SMILES and classes: TDC's PAMPA_NCATS, or another", metavar="FILE", group=_TASK
    )
    smiles: str | None = setting(None, "Column of the SMILES (default: Drug or smiles)", metavar="COLUMN", group=_TASK)
    label: str | None = setting(None, "Column of the classes (default: Y or label)", metavar="COLUMN", group=_TASK)
    classes: tuple[str, ...] = setting(
        CLASSES, "Class, as VALUE=NAME|OTHER WORDS; may be repeated", metavar="CLASS", group=_TASK
    )
    question: str = setting(QUESTION, "Question, with <mol> for the molecule", metavar="TEXT", group=_TASK)
    about: str = setting(TOLD, "Description of the task in the style task-info", metavar="TEXT", group=_TASK)
    rubric: str = setting("membrane_permeability", "Rubric of single answers", metavar="NAME", group=_TASK)
    pair_rubric: str = setting("general", "Rubric of pairs, for --rule two_temperatures", metavar="NAME", group=_TASK)
    style: tuple[str, ...] = setting(
        STYLES, f"Prompt style: {', '.join(STYLES)}; may be repeated", metavar="STYLE", group=_TASK
    )
    limit: PositiveInt | None = setting(
        None, "Evaluate on N random molecules of the test split only", metavar="N", group=_TASK
    )
    policy: str | None = setting(
        None, "Policy: a Mol-LLaMA (folder or hub id), or any model", metavar="MODEL", group=_STEPS
    )
    model: str | None = setting(None, "Judge model: folder or hub id", metavar="MODEL", group=_STEPS)
    samples: Annotated[int, Ge(2)] = setting(16, "Number of answers to choose from", metavar="N", group=_STEPS)
    sample_temperature: float = setting(0.8, "Sampling temperature of the policy", metavar="T", group=_STEPS)
    sample_tokens: PositiveInt = setting(512, "Maximum answer length in tokens", metavar="N", group=_STEPS)
    max_think_tokens: PositiveInt = setting(2048, "Thinking budget of the judge in tokens", metavar="N", group=_STEPS)
    hot_temperature: float = setting(1.2, "Higher temperature of --rule two_temperatures", metavar="T", group=_STEPS)
    train: NonNegativeInt | None = setting(
        None,
        "Make DPO pairs from N random molecules of the training split (default: all); 0: no DPO",
        metavar="N",
        group=_STEPS,
    )
    preferences: str | None = setting(
        None, "Train on these pairs instead: data as flex-judge dpo takes them", metavar="DATA", group=_STEPS
    )
    rule: Literal["two_temperatures", "highest_lowest"] = setting(
        PAPER_RULE,
        "Rule that makes the pairs: two_temperatures is the paper's, highest_lowest takes --samples answers",
        group=_STEPS,
    )
    dpo: tuple[str, ...] = setting(
        (), "Flag of flex-judge dpo, as NAME=VALUE; may be repeated", metavar="FLAG", group=_STEPS
    )
    seed: int = setting(0, "Seed of samples and random choices", metavar="N", group=_STEPS)
    out: str = setting("runs/pampa", "Output folder; a run that is there is resumed", metavar="DIR")

    def __post_init__(self) -> None:
        for style in self.style:
            if style not in STYLES:
                raise UsageError(f"--style {style}: expected one of {', '.join(STYLES)}")
        for name in ("data", "policy", "model"):
            if not getattr(self, name):
                raise UsageError(f"--{name} is needed")
        load_rubric(self.rubric).check_response_count(1)
        load_rubric(self.pair_rubric).check_response_count(2)
        _check_flags(self.dpo)
        make_config(PreferenceRun, **self.pair_settings)  # a wrong one ends the run before anything is started

    @property
    def pair_settings(self) -> dict[str, Any]:
        """How pairs are made, as settings of `flex-judge preferences`."""
        settings: dict[str, Any] = {"rule": self.rule, "sample_temperature": self.sample_temperature}
        if self.rule == PAPER_RULE:
            return settings | {"rubric": self.pair_rubric, "hot_temperature": self.hot_temperature}
        return settings | {"rubric": self.rubric, "samples": self.samples}

    @property
    def pair_flags(self) -> list[str]:
        """How pairs are made, as flags of `flex-judge preferences`."""
        return [text for name, value in self.pair_settings.items() for text in (format_flag(name), str(value))]

    @property
    def is_published_setup(self) -> bool:
        """Whether the question is the paper's, and so is how it is asked and judged."""
        usual = {f.name: f.default for f in _FIELDS if f.name in ("question", "about", "classes", "rubric")}
        return self.limit is None and all(getattr(self, name) == value for name, value in usual.items())

    @property
    def task(self) -> ClassificationTask:
        return ClassificationTask.from_classes(self.classes, self.question, self.about)


_FIELDS = fields(CaseStudyRun)
PUBLISHED_DPO = {
    "beta": 0.1,
    "learning_rate": 1e-5,
    "weight_decay": 0.05,
    "warmup_steps": 0.25,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
}
"""As the paper trains, with 32 pairs a step. Its 100 steps of warm-up are a quarter of those that its 4,253 pairs take;
of fewer pairs all steps might be warm-up."""


def _check_flags(flags: Sequence[str]) -> None:
    """Raise UsageError for what is no flag of `flex-judge dpo`, before anything is started."""
    if not flags:
        return
    from trl import DPOConfig, ModelConfig

    known = {f.name for kind in (DPOConfig, ModelConfig) for f in fields(kind)}
    for flag in flags:
        name, equals, _ = flag.partition("=")
        if not equals:
            raise UsageError(f"--dpo {flag}: expected NAME=VALUE, such as num_train_epochs=3")
        if name not in known:
            raise UsageError(f"--dpo {flag}: flex-judge dpo has no such flag; its --help lists them")
