"""The case study from a table to a page: greedy answers, the best of N by the judge, and DPO on the judge's choices.

Every step is a command that users have, in a folder of its own, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.configs import check_least, setting
from experiments.pampa.figures import LABEL, of_any, of_best, of_first
from experiments.pampa.page import write_page
from experiments.pampa.task import ABOUT as TOLD
from experiments.pampa.task import CLASSES, QUESTION, STYLES, Molecule, Task, majority, read_molecules, split
from experiments.ranks import run
from experiments.run_folder import RunFolder
from judges.errors import EngineLostError, UsageError
from judges.journal import read_rows, write_rows, write_text
from judges.models import check_model
from judges.rubrics import load_rubric

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
    limit: int | None = setting(None, "only the first N molecules of the test split", metavar="N", group=_TASK)
    policy: str | None = setting(
        None, "the policy: a Mol-LLaMA (folder or hub id), or any model", metavar="MODEL", group=_STEPS
    )
    model: str | None = setting(None, "the judge", metavar="MODEL", group=_STEPS)
    samples: int = setting(16, "answers to choose from", metavar="N", group=_STEPS)
    sample_temperature: float = setting(0.8, "at which they are sampled", metavar="T", group=_STEPS)
    sample_tokens: int = setting(512, "most tokens of an answer", metavar="N", group=_STEPS)
    max_think_tokens: int = setting(2048, "most tokens that the judge thinks", metavar="N", group=_STEPS)
    train: int = setting(
        500, "molecules of the training split whose answers make pairs for DPO; 0: no DPO", metavar="N", group=_STEPS
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
        for flag in self.dpo:
            if "=" not in flag:
                raise UsageError(f"--dpo {flag}: expected NAME=VALUE, such as num_train_epochs=3")

    @property
    def task(self) -> Task:
        return Task.of(self.classes, self.question, self.about)


PUBLISHED_DPO = {
    "beta": 0.1,
    "learning_rate": 1e-5,
    "weight_decay": 0.05,
    "warmup_steps": 100,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 8,
}
"""As the paper trains, with 32 pairs a step."""


def main(config: CaseStudy) -> dict[str, Any]:
    """Run the study, or go on with it.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
        EngineLostError: a step failed. The same run goes on from there.
    """
    path, task = Path(str(config.data)), config.task
    molecules = read_molecules(path, task, config.smiles, config.label)
    train, test = split(molecules)
    test = test[: config.limit]
    for model in (config.policy, config.model):
        check_model(str(model))
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "style", "data")}
    settings |= {
        "data_digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "classes": list(config.classes),
        "dpo": list(config.dpo),
    }
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        styles = {style: _Style(config, folder, style).figures(train[: config.train], test) for style in config.style}
        name, share = majority(test)
        summary = {
            **folder.settings,
            "data": config.data,
            "molecules": len(molecules),
            "test": len(test),
            "majority": {"class": name, "accuracy": share},
            "classes_seen": len({one.label for one in test}),
            "is_paper_s": config.question == QUESTION and config.classes == CLASSES,
            "styles": styles,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_page(folder.path, summary)
        return summary


@dataclass(frozen=True)
class _Style:
    """The steps for one way of asking."""

    config: CaseStudy
    folder: RunFolder
    style: str

    @property
    def out(self) -> Path:
        return self.folder.path / self.style

    def figures(self, train: Sequence[Molecule], test: Sequence[Molecule]) -> dict[str, Any]:
        """All steps, and what they came to."""
        self.out.mkdir(exist_ok=True)
        asked = self._write(self.out / "test.jsonl", test)
        greedy = self._answers(asked, "greedy")
        sampled = self._answers(asked, "sampled", samples=self.config.samples)
        task = self.config.task
        found: dict[str, Any] = {
            "greedy": of_first(greedy, task),
            "best": of_best(sampled, task, seed=self.config.seed),
            "any": of_any(sampled, task),
        }
        if train:
            policy = self._tuned(self._write(self.out / "train.jsonl", train))
            found["dpo"] = of_first(self._answers(asked, "greedy_after_dpo", adapter=policy), task)
        return found

    def _write(self, file: Path, molecules: Sequence[Molecule]) -> Path:
        text = self.config.task.prompt(self.style)
        rows = ({"id": one.id, "prompt": text, "molecules": [one.smiles], LABEL: one.label} for one in molecules)
        write_rows(file, rows)
        return file

    def _flags(self, **more: Any) -> list[str]:
        config = self.config
        told = {"policy": config.policy, "model": config.model, "rubric": config.rubric, "seed": config.seed}
        told |= {"sample-tokens": config.sample_tokens, "max-think-tokens": config.max_think_tokens}
        told |= {"temperature": 0, **more}
        return [text for name, value in told.items() for text in (f"--{name.replace('_', '-')}", str(value))]

    def _answers(self, asked: Path, name: str, samples: int = 1, adapter: Path | None = None) -> list[dict[str, Any]]:
        """Judged answers to the questions of a file: greedy, or so many samples. What could not be answered has none,
        and stays."""
        hot = self.config.sample_temperature if samples > 1 else 0
        flags = self._flags(samples=samples, sample_temperature=hot, out=self.out / name)
        flags += ["--keep", LABEL, "--max-failures", str(10**9)]
        flags += ["--policy-adapter", str(adapter)] if adapter else []
        with self.folder.phase(name):
            run("best-of-n", str(asked), *flags)
        given = {row["id"]: row for row in read_rows(self.out / name / "best_of_n.jsonl")}
        nothing = {"responses": [""] * samples, "scores": [None] * samples}
        return [given.get(str(row["id"]), {**nothing, "kept": {LABEL: row[LABEL]}}) for row in read_rows(asked)]

    def _tuned(self, asked: Path) -> Path:
        """The adapter that DPO makes of the policy's answers at two temperatures, of which the judge prefers one."""
        pairs, out = self.out / "preferences", self.out / "policy"
        with self.folder.phase("preferences"):
            config = self.config
            flags = self._flags(rule=config.rule, out=pairs, sample_temperature=config.sample_temperature)
            if config.rule == PAPER_RULE:
                flags += ["--rubric", config.pair_rubric]
            else:
                flags += ["--samples", str(config.samples)]
            run("preferences", str(asked), *flags, "--with-molecules", "--max-failures", str(10**9))
        if not any(True for _ in read_rows(pairs / "data" / "train.jsonl")):
            raise EngineLostError(f"no pair came of {asked}; see {pairs / 'summary.json'}")
        given = dict(flag.split("=", 1) for flag in self.config.dpo)
        told = {**PUBLISHED_DPO, "seed": self.config.seed, **given}
        with self.folder.phase("dpo"):
            flags = [text for name, value in told.items() for text in (f"--{name}", str(value))]
            where = [
                "--model_name_or_path",
                str(self.config.policy),
                "--output_dir",
                str(out),
                "--held_out_prompts",
                "0",
            ]
            run("dpo", str(pairs), *where, *flags)
        return out
