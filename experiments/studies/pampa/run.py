"""The case study from the table to the report: greedy answers, best-of-N by the judge, and DPO on the judge's choices.

Every step is a public command with a folder of its own, so an interrupted run can be resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.ranks import run_subcommand
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.studies.pampa.config import PUBLISHED_DPO, CaseStudyRun
from flex_judge.experiments.studies.pampa.released import load_split
from flex_judge.experiments.studies.pampa.second_pass import add_second_pass_metrics, continue_answers
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
    sample_molecules,
)
from flex_judge.experiments.studies.pampa.task import HIGH
from flex_judge.judges.engines.base import EngineConfig, Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.models import ADAPTER_FILES, MOL_LLAMA, check_model, read_model_type

PUBLISHED_TEST = (407, HIGH, 344)
"""Paper's test split: number of molecules, most frequent class, and its number of molecules."""
INDEPENDENT_SETTINGS = (
    "out",
    "style",
    "data",
    "train",
    "preferences",
    "rule",
    "pair_rubric",
    "hot_temperature",
    "dpo",
    "second_pass",
)
"""Settings that do not identify a run, because neither the greedy answers nor best-of-N depend on them.

The folders of the other steps record them.
"""


def main(config: CaseStudyRun) -> dict[str, Any]:
    """Run the study, or resume an interrupted run.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: A setting or the table is invalid; nothing was started.
        EngineLostError: A step failed. The same command resumes the run.
    """
    path, task = Path(str(config.data)), config.task
    table, train_split, test_split = load_split(path, task, config.smiles, config.label)
    released = table.released
    prompts = {} if released is None or config.has_own_question else released.prompts
    test = sample_molecules(test_split, config.limit, config.seed)
    makes_pairs = config.train != 0 and not config.preferences
    clean_train = exclude_test_molecules(train_split, test_split) if makes_pairs else []
    train = sample_molecules(clean_train, config.train, config.seed)
    for model in (config.policy, config.judge):
        check_model(str(model))
    settings = {name: value for name, value in asdict(config).items() if name not in INDEPENDENT_SETTINGS}
    # The content of the table identifies a run, not its path.
    settings |= {
        "data_digest": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "classes": list(config.classes),
    }
    with RunFolder(Path(config.out).resolve(), settings, kind="pampa") as folder:
        steps = _StudySteps(config, folder, prompts)
        styles = {style: steps.evaluate_style(style, test) for style in config.style}
        dpo = None
        if train or config.preferences:
            policy, dpo = steps.tune_policy(train)
            for style, results in styles.items():
                steps.add_dpo_results(style, results, policy)
        majority_class, majority_share = find_majority_class(test)
        # Another version of the table would make the published values incomparable.
        is_published_test = (len(test), majority_class, round(majority_share * len(test))) == PUBLISHED_TEST
        summary = {
            **folder.settings,
            "data": config.data,
            "molecules": len(table.molecules),
            "left_out": dict(table.left_out),
            "test": len(test),
            "train": len(train),
            "train_in_the_test_split": len(train_split) - len(clean_train) if clean_train else None,
            "majority": {"class": majority_class, "accuracy": majority_share},
            "classes_seen": len({molecule.label for molecule in test}),
            "is_paper_s": config.is_published_setup and is_published_test,
            "released_prompts": sorted(prompts),
            "ignored_conformers": released is not None and released.has_conformers,
            "styles": styles,
            "dpo": dpo,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
        return summary


@dataclass(frozen=True)
class _StudySteps:
    """Steps of a run. Each one calls a public command."""

    config: CaseStudyRun
    folder: RunFolder
    prompts: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """Prompts of a released file by style; the task's own wording for other styles."""
    _greedy: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Greedy answers before DPO, by style."""

    def evaluate_style(self, style: str, test: Sequence[Molecule]) -> dict[str, Any]:
        """Compute the metrics of the untuned policy in a prompt style: greedy answers, samples and best-of-N."""
        questions = self._write_questions(style, ((style, molecule) for molecule in test), "test")
        task = self.config.task
        self._greedy[style] = self._answer_questions(style, questions, "greedy")
        sampled = self._answer_questions(style, questions, "sampled", samples=self.config.samples)
        results = {
            "greedy": compute_pass_at_1(self._greedy[style], task),
            "sampled": {"outcomes": count_outcomes(sampled, task)},
            "best": compute_best_of_n(sampled, task, seed=self.config.seed),
            "pass_at": compute_pass_at_n(sampled, task),
        }
        self._add_second_pass(results, "greedy", self._greedy[style], questions, f"{style}/greedy")
        temperature = self.config.sample_temperature
        self._add_second_pass(results, "best", sampled, questions, f"{style}/sampled", temperature)
        return results

    def add_dpo_results(self, style: str, results: dict[str, Any], policy: Path) -> None:
        """Add the metrics of the tuned policy to the results of a style."""
        task = self.config.task
        questions = self.folder.path / style / "test.jsonl"
        tuned_rows = self._answer_questions(style, questions, "greedy_after_dpo", tuned=policy)
        results["dpo"] = compute_pass_at_1(tuned_rows, task)
        results["gain"] = estimate_gain(self._greedy[style], tuned_rows, task)
        self._add_second_pass(results, "dpo", tuned_rows, questions, f"{style}/greedy_after_dpo", tuned=policy)

    def _add_second_pass(
        self,
        results: dict[str, Any],
        step: str,
        rows: Sequence[dict[str, Any]],
        questions: Path,
        subfolder: str,
        temperature: float = 0.0,
        tuned: Path | None = None,
    ) -> None:
        """Add the metrics of a step after the second pass."""
        config = self.config
        if not config.second_pass:
            return
        flags = _find_policy(config, tuned)
        policy = EngineConfig(flags["policy"], adapter=flags.get("policy-adapter"), seed=config.seed)
        sampling = Sampling(config.sample_tokens, temperature, seed=config.seed)
        out = self.folder.path / subfolder / "second_pass.jsonl"
        with self.folder.time_phase(f"{subfolder}: second pass"):
            continued = continue_answers(rows, list(read_rows(questions)), policy, sampling, out)
        add_second_pass_metrics(results, step, continued, config.task, config.seed)

    def tune_policy(self, train: Sequence[Molecule]) -> tuple[Path, dict[str, Any]]:
        """Tune the policy with DPO on pairs of its own answers. One policy serves all styles.

        Returns:
            Folder of the tuned policy, and statistics of the training.
        """
        config, out = self.config, self.folder.path / "dpo" / "policy"
        data = config.preferences or str(self._make_pairs(train))
        # Flags given by the user override the published settings.
        flags = {
            "model_name_or_path": config.policy,
            "output_dir": out,
            "held-out-prompts": 0,
            **PUBLISHED_DPO,
            "seed": config.seed,
            **dict(flag.split("=", 1) for flag in config.dpo),
        }
        with self.folder.time_phase("dpo"):
            run_subcommand("dpo", data, *_format_flags(flags))
        training = json.loads((out / "training.json").read_text(encoding="utf-8"))
        rates = [row["learning_rate"] for row in training["log"] if "learning_rate" in row]
        steps = max((row["step"] for row in training["log"]), default=0)
        return out, {"pairs": training["rows"], "steps": steps, "highest_learning_rate": max(rates, default=None)}

    def _make_pairs(self, train: Sequence[Molecule]) -> Path:
        """Make preference pairs from the policy's answers about training molecules, asked in every style."""
        questions = self._write_questions(
            "dpo", ((style, molecule) for molecule in train for style in self.config.style), "train"
        )
        pairs = self.folder.path / "dpo" / "preferences"
        with self.folder.time_phase("preferences"):
            # Some molecules always fail, so the number of failures is not limited.
            flags = [*self._make_model_flags(), *self.config.pair_flags]
            flags += ["--out", str(pairs), "--max-failures", str(10**9)]
            if read_model_type(str(self.config.policy)) == MOL_LLAMA:
                flags.append("--with-molecules")
            run_subcommand("preferences", str(questions), *flags)
        if not any(True for _ in read_rows(pairs / "data" / "train.jsonl")):
            raise EngineLostError(f"{questions}: no pair could be made; see {pairs / 'summary.json'}")
        return pairs

    def _write_questions(self, subfolder: str, questions: Iterable[tuple[str, Molecule]], name: str) -> Path:
        """Write questions, given as style and molecule, to a file that the commands read."""
        folder = self.folder.path / subfolder
        folder.mkdir(exist_ok=True)
        rows = (
            {
                "id": f"{molecule.id}-{style}",
                "prompt": self.prompts.get(style) or self.config.task.make_prompt(style),
                "molecules": [molecule.smiles],
                LABEL: molecule.label,
            }
            for style, molecule in questions
        )
        write_rows(folder / f"{name}.jsonl", rows)
        return folder / f"{name}.jsonl"

    def _make_model_flags(self, policy: Mapping[str, Any] | None = None) -> list[str]:
        config = self.config
        return _format_flags(
            {
                "policy": config.policy,
                **(policy or {}),
                "judge": config.judge,
                "seed": config.seed,
                "sample-tokens": config.sample_tokens,
                "max-think-tokens": config.max_think_tokens,
                "temperature": 0,
            }
        )

    def _answer_questions(
        self, style: str, questions: Path, name: str, samples: int = 1, tuned: Path | None = None
    ) -> list[dict[str, Any]]:
        """Answer the questions of a file and judge the answers.

        Args:
            style: Prompt style, the name of the output folder.
            questions: File of the questions.
            name: Name of the step, a subfolder of the output folder.
            samples: Number of answers per question; 1 decodes greedily.
            tuned: Folder of the tuned policy; None for the untuned one.

        Returns:
            Rows in the order of the questions. Questions that could not be answered have None as `responses`.
        """
        out = self.folder.path / style / name
        temperature = self.config.sample_temperature if samples > 1 else 0
        flags = [
            *self._make_model_flags(_find_policy(self.config, tuned)),
            "--samples",
            str(samples),
            "--sample-temperature",
            str(temperature),
        ]
        # Questions that fail count as unanswered in the metrics, instead of ending the run.
        flags += ["--rubric", self.config.rubric, "--out", str(out), "--keep", LABEL, "--max-failures", str(10**9)]
        with self.folder.time_phase(f"{style}: {name}"):
            run_subcommand("best-of-n", str(questions), *flags)
        answered = {row["id"]: row for row in read_rows(out / "best_of_n.jsonl")}
        rows = []
        for question in read_rows(questions):
            unanswered = {"responses": None, "scores": None, "kept": {LABEL: question[LABEL]}}
            rows.append(answered.get(str(question["id"]), unanswered))
        return rows


def _find_policy(config: CaseStudyRun, tuned: Path | None) -> dict[str, str]:
    """Return the flags that name the policy: the untuned one, or the result of DPO."""
    if tuned is None:
        return {"policy": str(config.policy)}
    if (tuned / ADAPTER_FILES[0]).is_file():
        return {"policy": str(config.policy), "policy-adapter": str(tuned)}
    return {"policy": str(tuned)}


def _format_flags(values: Mapping[str, Any]) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]
