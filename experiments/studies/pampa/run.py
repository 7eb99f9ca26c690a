"""The case study from a table to a page: greedy answers, the best of N by the judge, and DPO on the judge's choices.

Every step is a command that users have, in a folder of its own, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.ranks import run_subcommand
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.pampa.config import PUBLISHED_DPO, CaseStudyRun
from flex_judge.experiments.studies.pampa.page import write_page
from flex_judge.experiments.studies.pampa.statistics import (
    LABEL,
    compute_best_of_n,
    compute_pass_at_1,
    compute_pass_at_n,
    count_outcomes,
    estimate_gain,
)
from flex_judge.experiments.studies.pampa.table import (
    Molecule,
    exclude_test_molecules,
    find_majority_class,
    read_molecules,
    split_molecules,
)
from flex_judge.experiments.studies.pampa.task import HIGH
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.models import ADAPTER_FILES, MOL_LLAMA, check_model, read_model_type

PUBLISHED_TEST = (407, HIGH, 344)
"""Molecules that the paper tests with, their most frequent class, and how many have it."""
INDEPENDENT_SETTINGS = ("out", "style", "data", "train", "preferences", "rule", "pair_rubric", "hot_temperature", "dpo")
"""Settings on which neither the greedy answers nor the best of N depend; the folders of the other steps know them."""


def main(config: CaseStudyRun) -> dict[str, Any]:
    """Run the study, or go on with it.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
        EngineLostError: a step failed. The same run goes on from there.
    """
    path, task = Path(str(config.data)), config.task
    table = read_molecules(path, task, config.smiles, config.label)
    train, whole = split_molecules(table.molecules)
    test = _sample_molecules(whole, config.limit, config.seed)
    fresh = [] if config.train == 0 or config.preferences else exclude_test_molecules(train, whole)
    learnt = _sample_molecules(fresh, config.train, config.seed)
    for model in (config.policy, config.model):
        check_model(str(model))
    settings = {name: value for name, value in asdict(config).items() if name not in INDEPENDENT_SETTINGS}
    settings |= {
        "data_digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "classes": list(config.classes),
    }
    with RunFolder(Path(config.out).resolve(), settings) as folder:
        steps = _StudySteps(config, folder)
        styles = {style: steps.evaluate_style(style, test) for style in config.style}
        dpo = None
        if learnt or config.preferences:
            policy, dpo = steps.tune_policy(learnt)
            for style, found in styles.items():
                steps.add_dpo_results(style, found, policy)
        name, share = find_majority_class(test)
        paper = (len(test), name, round(share * len(test))) == PUBLISHED_TEST
        summary = {
            **folder.settings,
            "data": config.data,
            "molecules": len(table.molecules),
            "left_out": dict(table.left_out),
            "test": len(test),
            "train": len(learnt),
            "train_in_the_test_split": len(train) - len(fresh) if fresh else None,
            "majority": {"class": name, "accuracy": share},
            "classes_seen": len({one.label for one in test}),
            "is_paper_s": config.is_published_setup and paper,
            "styles": styles,
            "dpo": dpo,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_page(folder.path, summary)
        return summary


@dataclass(frozen=True)
class _StudySteps:
    """The commands of a run."""

    config: CaseStudyRun
    folder: RunFolder
    _greedy: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def evaluate_style(self, style: str, test: Sequence[Molecule]) -> dict[str, Any]:
        """What the policy as it is says, asked in a style, and the best of it."""
        asked, task = self._write_questions(style, ((style, one) for one in test), "test"), self.config.task
        greedy = self._greedy[style] = self._answer_questions(style, asked, "greedy")
        sampled = self._answer_questions(style, asked, "sampled", samples=self.config.samples)
        return {
            "greedy": compute_pass_at_1(greedy, task),
            "sampled": {"outcomes": count_outcomes(sampled, task)},
            "best": compute_best_of_n(sampled, task, seed=self.config.seed),
            "pass_at": compute_pass_at_n(sampled, task),
        }

    def add_dpo_results(self, style: str, found: dict[str, Any], policy: Path) -> None:
        """Add to what was found in a style what the policy says after DPO."""
        task = self.config.task
        after = self._answer_questions(style, self.folder.path / style / "test.jsonl", "greedy_after_dpo", tuned=policy)
        found["dpo"] = compute_pass_at_1(after, task)
        found["gain"] = estimate_gain(self._greedy[style], after, task)

    def tune_policy(self, train: Sequence[Molecule]) -> tuple[Path, dict[str, Any]]:
        """What DPO makes of the policy on pairs of its own answers, and how; one policy for all styles."""
        config, out = self.config, self.folder.path / "dpo" / "policy"
        data = config.preferences or str(self._make_pairs(train))
        told = {**PUBLISHED_DPO, "seed": config.seed, **dict(flag.split("=", 1) for flag in config.dpo)}
        where = {"model_name_or_path": config.policy, "output_dir": out, "held-out-prompts": 0}
        flags = [text for name, value in {**where, **told}.items() for text in (f"--{name}", str(value))]
        with self.folder.time_phase("dpo"):
            run_subcommand("dpo", data, *flags)
        trained = json.loads((out / "training.json").read_text(encoding="utf-8"))
        rates = [row["learning_rate"] for row in trained["log"] if "learning_rate" in row]
        steps = max((row["step"] for row in trained["log"]), default=0)
        return out, {"pairs": trained["rows"], "steps": steps, "highest_learning_rate": max(rates, default=None)}

    def _make_pairs(self, train: Sequence[Molecule]) -> Path:
        """Pairs of the policy's answers to questions about molecules to train on, each asked in every style."""
        asked = self._write_questions("dpo", ((style, one) for one in train for style in self.config.style), "train")
        pairs = self.folder.path / "dpo" / "preferences"
        with self.folder.time_phase("preferences"):
            flags = [
                *self._make_model_flags(),
                *self.config.pair_flags,
                "--out",
                str(pairs),
                "--max-failures",
                str(10**9),
            ]
            if read_model_type(str(self.config.policy)) == MOL_LLAMA:
                flags.append("--with-molecules")
            run_subcommand("preferences", str(asked), *flags)
        if not any(True for _ in read_rows(pairs / "data" / "train.jsonl")):
            raise EngineLostError(f"no pair came of {asked}; see {pairs / 'summary.json'}")
        return pairs

    def _write_questions(self, where: str, questions: Any, name: str) -> Path:
        folder = self.folder.path / where
        folder.mkdir(exist_ok=True)
        rows = (
            {
                "id": f"{molecule.id}-{style}",
                "prompt": self.config.task.make_prompt(style),
                "molecules": [molecule.smiles],
                LABEL: molecule.label,
            }
            for style, molecule in questions
        )
        write_rows(folder / f"{name}.jsonl", rows)
        return folder / f"{name}.jsonl"

    def _make_model_flags(self, policy: Mapping[str, Any] | None = None) -> list[str]:
        config = self.config
        told = {"policy": config.policy, **(policy or {}), "model": config.model, "seed": config.seed}
        told |= {"sample-tokens": config.sample_tokens, "max-think-tokens": config.max_think_tokens, "temperature": 0}
        return [text for name, value in told.items() for text in (f"--{name}", str(value))]

    def _answer_questions(
        self, style: str, asked: Path, name: str, samples: int = 1, tuned: Path | None = None
    ) -> list[dict[str, Any]]:
        """Judged answers to the questions of a file: greedy, or so many samples. A question that could not be answered
        has none, and stays."""
        out = self.folder.path / style / name
        hot = self.config.sample_temperature if samples > 1 else 0
        policy: dict[str, Any] = {}
        if tuned is not None:
            is_adapter = (tuned / ADAPTER_FILES[0]).is_file()
            policy = {"policy-adapter": tuned} if is_adapter else {"policy": tuned}
        flags = [*self._make_model_flags(policy), "--samples", str(samples), "--sample-temperature", str(hot)]
        flags += ["--rubric", self.config.rubric, "--out", str(out), "--keep", LABEL, "--max-failures", str(10**9)]
        with self.folder.time_phase(f"{style}: {name}"):
            run_subcommand("best-of-n", str(asked), *flags)
        given = {row["id"]: row for row in read_rows(out / "best_of_n.jsonl")}
        nothing = {"responses": None, "scores": None}
        return [given.get(str(row["id"]), {**nothing, "kept": {LABEL: row[LABEL]}}) for row in read_rows(asked)]


def _sample_molecules(molecules: Sequence[Molecule], count: int | None, seed: int) -> list[Molecule]:
    """So many of them, by lot, in the order of the table; None for all."""
    if count is None or count >= len(molecules):
        return list(molecules)
    return [molecules[i] for i in sorted(random.Random(seed).sample(range(len(molecules)), count))]
