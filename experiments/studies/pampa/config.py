"""Settings of the case study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.flags import add_flags, build, check_least, setting
from flex_judge.experiments.studies.pampa.task import ABOUT as TOLD
from flex_judge.experiments.studies.pampa.task import CLASSES, QUESTION, STYLES, Task
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import load_rubric

_TASK, _STEPS = "the task", "the steps"
PAPER_RULE = "two_temperatures"


@dataclass(frozen=True)
class CaseStudy:
    """Settings of a run."""

    data: str | None = setting(
        None, "table with SMILES and classes: TDC's PAMPA_NCATS, or another", metavar="FILE", group=_TASK
    )
    smiles: str | None = setting(None, "column of the SMILES (default: Drug or smiles)", metavar="COLUMN", group=_TASK)
    label: str | None = setting(None, "column of the classes (default: Y or label)", metavar="COLUMN", group=_TASK)
    classes: tuple[str, ...] = setting(
        CLASSES, "a class, as VALUE=NAME|OTHER WORDS; to be repeated", metavar="CLASS", group=_TASK
    )
    question: str = setting(QUESTION, "what is asked, with <mol> for the molecule", metavar="TEXT", group=_TASK)
    about: str = setting(TOLD, "what the style task-info tells of the task", metavar="TEXT", group=_TASK)
    rubric: str = setting("membrane_permeability", "what an answer is judged by", metavar="NAME", group=_TASK)
    pair_rubric: str = setting(
        "general", "what pairs of --rule two_temperatures are judged by", metavar="NAME", group=_TASK
    )
    style: tuple[str, ...] = setting(
        STYLES, f"how it is asked: {', '.join(STYLES)}; may be repeated", metavar="STYLE", group=_TASK
    )
    limit: int | None = setting(None, "only N molecules of the test split, drawn by lot", metavar="N", group=_TASK)
    policy: str | None = setting(
        None, "the policy: a Mol-LLaMA (folder or hub id), or any model", metavar="MODEL", group=_STEPS
    )
    model: str | None = setting(None, "the judge", metavar="MODEL", group=_STEPS)
    samples: int = setting(16, "answers to choose from", metavar="N", group=_STEPS)
    sample_temperature: float = setting(0.8, "at which they are sampled", metavar="T", group=_STEPS)
    sample_tokens: int = setting(512, "most tokens of an answer", metavar="N", group=_STEPS)
    max_think_tokens: int = setting(2048, "most tokens that the judge thinks", metavar="N", group=_STEPS)
    hot_temperature: float = setting(1.2, "the hotter one of --rule two_temperatures", metavar="T", group=_STEPS)
    train: int | None = setting(
        None,
        "molecules of the training split, drawn by lot, whose answers make pairs for DPO (default: all); 0: no DPO",
        metavar="N",
        group=_STEPS,
    )
    preferences: str | None = setting(
        None, "DPO on these pairs instead: what flex-judge dpo takes", metavar="DATA", group=_STEPS
    )
    rule: str = setting(
        PAPER_RULE,
        "how their pairs are made: two_temperatures, as the paper does, or highest_lowest of --samples answers",
        choices=(PAPER_RULE, "highest_lowest"),
        group=_STEPS,
    )
    dpo: tuple[str, ...] = setting(
        (), "a flag of flex-judge dpo, as NAME=VALUE; may be repeated", metavar="FLAG", group=_STEPS
    )
    seed: int = setting(0, "seed of samples and draws", metavar="N", group=_STEPS)
    out: str = setting("runs/pampa", "folder for everything; a run that is there is resumed", metavar="DIR")

    def __post_init__(self) -> None:
        check_least(self, {"samples": 2, "sample_tokens": 1, "train": 0, "limit": 1})
        for style in self.style:
            if style not in STYLES:
                raise UsageError(f"--style {style}: expected one of {', '.join(STYLES)}")
        for name in ("data", "policy", "model"):
            if not getattr(self, name):
                raise UsageError(f"--{name} is needed")
        load_rubric(self.rubric).check(1)
        load_rubric(self.pair_rubric).check(2)
        _check_flags(self.dpo)
        parser = argparse.ArgumentParser()
        add_flags(parser, PreferenceRun)
        build(PreferenceRun, parser.parse_args(self.pair_flags))  # what does not fit is said before anything is started

    @property
    def pair_flags(self) -> list[str]:
        """How pairs are made, as flags of `flex-judge preferences`."""
        told: dict[str, Any] = {"rule": self.rule, "sample-temperature": self.sample_temperature}
        if self.rule == PAPER_RULE:
            told |= {"rubric": self.pair_rubric, "hot-temperature": self.hot_temperature}
        else:
            told |= {"rubric": self.rubric, "samples": self.samples}
        return [text for name, value in told.items() for text in (f"--{name}", str(value))]

    @property
    def is_the_paper_s(self) -> bool:
        """Whether the question is the paper's, and so is how it is asked and judged."""
        usual = {f.name: f.default for f in _FIELDS if f.name in ("question", "about", "classes", "rubric")}
        return self.limit is None and all(getattr(self, name) == value for name, value in usual.items())

    @property
    def task(self) -> Task:
        return Task.of(self.classes, self.question, self.about)


_FIELDS = fields(CaseStudy)
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
