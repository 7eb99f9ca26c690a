"""`flex-judge dpo` and `flex-judge grpo`: evaluate a policy, train it with TRL, evaluate it again, write a summary.

An evaluation is a best-of-N run over held-out prompts, so it has replicas, resumes, and stores all answers and
judgments. It runs in subprocesses, because the training process must not hold a model at the same time.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import uuid4

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.policy_training.data import (
    PolicyTrainingData,
    load_preference_data,
    load_prompt_data,
    write_prompts,
)
from flex_judge.alignment.policy_training.evaluation import compare_policies
from flex_judge.alignment.policy_training.held_out import select_held_out
from flex_judge.alignment.policy_training.preference_rows import PREFERENCE_FIELDS
from flex_judge.alignment.policy_training.tuning import (
    LOG_FILE,
    check_grpo_policy,
    prepare_preferences,
    prepare_prompts,
    tune_dpo,
    tune_grpo,
)
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.card import write_card
from flex_judge.alignment.training.recipes import PolicyRecipe
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.commands.train_policy.view import print_policy_training
from flex_judge.experiments.common.data_runs.config import TASK_PROMPTS
from flex_judge.experiments.common.flags import load_config
from flex_judge.experiments.common.progress import uses_json_progress
from flex_judge.experiments.common.ranks import Ranks, run_judge_server, run_subcommand
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.start_checks import check_judge, check_service_access
from flex_judge.experiments.common.stopping import is_stop_requested
from flex_judge.experiments.common.training.flags import TrainingFlags
from flex_judge.experiments.common.training.run import SUMMARY, TrainingRun, run_command
from flex_judge.experiments.common.training.settings import build_identity, collect_trl_settings
from flex_judge.judges.errors import EngineLostError, UsageError
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.io.http import read_key
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_text
from flex_judge.reward.types import RewardSpec

EVALUATION = "evaluation"
"""Subfolder of the output folder for all files that are not part of the policy."""
PROMPTS = "held_out.jsonl"


def main(name: str, argv: Sequence[str]) -> int:
    """Run `flex-judge dpo` or `grpo` and return the exit status, see `run_command`."""
    return run_command(name, argv, PolicyTraining, print_policy_training)


class PolicyTraining(TrainingRun):
    """One process (rank) of a run that trains a policy. The constructor reads the data.

    Raises:
        UsageError: The data are missing or do not fit the settings.
    """

    record, makes = EVALUATION, "policy"

    def __init__(self, flags: TrainingFlags, ranks: Ranks) -> None:
        super().__init__(flags, ranks)
        recipe = flags.recipe
        if flags.kind.name == "grpo":
            check_grpo_policy(flags.policy)
        # Before the data are prepared, which may take long. A judge that the data name is checked once they are read.
        is_named = flags.kind.name == "grpo" or any((recipe.judge, recipe.judge_url, recipe.judge_config))
        if is_named:
            self._check_judge(recipe, is_evaluated=recipe.held_out_prompts != 0)
        data = _load_data(flags)
        self.recipe = flags.recipe.with_data_defaults(data.made_by, data.is_task)
        self.held_out, held_out_prompts = select_held_out(self.recipe, data, flags.args.seed)
        self.data = data.exclude_prompts(held_out_prompts)
        if not len(self.data.rows):
            raise UsageError(f"{data.name}: all rows are held out, none is left for training; lower --held-out-prompts")
        if not is_named or self.recipe != recipe:
            self._check_judge(self.recipe, is_evaluated=self.held_out is not None)
        model = flags.model
        if flags.kind.name == "dpo":
            self.data = prepare_preferences(model, flags.args, self.data)
        else:
            self.data = prepare_prompts(model, self.data)
        if self.held_out and model.use_peft and (model.use_dora or model.lora_modules_to_save):
            raise UsageError(
                "--use_dora and --lora_modules_to_save make adapters that the engines cannot load for the evaluation; "
                "leave them out, or skip the evaluation with --held-out-prompts 0"
            )

    def _train_model(self) -> None:
        # The evaluation before training comes first: a judge or engine that fails must not cost a training run.
        self.ranks.run_on_first(lambda: self._evaluate_policy("before"))
        # The trainer writes its log last, so a log means that training is complete.
        if not self.ranks.run_on_first((self.out / LOG_FILE).is_file):
            self._print_status(f"training on {format_count(len(self.data.rows), 'row')}")
            with self._time_phase("train"):
                self._train_policy()
            if self.ranks.is_any(is_stop_requested()):  # during the last step
                raise KeyboardInterrupt
        self.ranks.run_on_first(lambda: self._evaluate_policy("after"))

    def _prepare_folder(self, folder: Path) -> None:
        if self.held_out:
            write_prompts(folder / PROMPTS, self.held_out.rows)
        for message in (*self.data.problems, *self.data.notes):
            self._print_status(message)

    @property
    def _identity(self) -> dict[str, Any]:
        """Settings that determine the results; a folder holds one run of one identity."""
        return {
            **build_identity(self.flags, self.recipe),
            "data": self.data.name,
            "data_digest": self.data.digest,
            "held_out_digest": self.held_out.digest if self.held_out else None,
            "ranks": self.ranks.count,
        }

    def _time_phase(self, name: str) -> AbstractContextManager[None]:
        return self.folder.time_phase(name) if self.ranks.is_first else nullcontext()

    def _check_judge(self, recipe: PolicyRecipe, *, is_evaluated: bool) -> None:
        """Check the judge without starting it, on the first rank; a complete run needs none.

        Args:
            recipe: Settings of the judge.
            is_evaluated: Whether the policy is evaluated before and after training.
        """
        if self.ranks.run_on_first(self._read_summary) is None:
            self.ranks.run_on_first(lambda: self._check_judge_access(recipe, is_evaluated))

    def _check_judge_access(self, recipe: PolicyRecipe, is_evaluated: bool) -> None:
        if recipe.judge_url is not None:
            rubrics = [recipe.rubric] if recipe.rubric else []
            check_service_access(RemoteJudge(recipe.judge_url, api_key=recipe.judge_key), rubrics)
            return
        # The file configures the judge of the evaluation and, for grpo, the service; their other settings differ.
        judge = {name: value for name in ("judge", "judge_adapter") if (value := getattr(recipe, name)) is not None}
        common: dict[str, Any] = {"config": recipe.judge_config, "json_progress": uses_json_progress()}
        if is_evaluated:
            check_judge(load_config(BestOfNRun, Namespace(**common, **judge)).judge_config)
        if self.flags.kind.name == "grpo":
            service = {"adapter" if "adapter" in name else "model": value for name, value in judge.items()}
            load_config(ServeRun, Namespace(**common, **service)).check_start()
            if not self.flags.args.use_cpu:
                raise UsageError(
                    "--judge-url is missing: this process trains on the accelerator, so the judge needs another one; "
                    "start it there with `flex-judge serve` and give its address"
                )

    def _build_judge_flags(self, model_flag: str, adapter_flag: str) -> list[str]:
        """Build the flags of the judge for a command that has these names for its model and adapter."""
        recipe = self.recipe
        flags = [model_flag, recipe.judge]
        if recipe.judge_adapter:
            flags += [adapter_flag, recipe.judge_adapter]
        if recipe.judge_config:
            flags += ["--config", recipe.judge_config]
        return flags

    def _evaluate_policy(self, when: str) -> None:
        """Sample and judge answers of the policy to the held-out prompts, `before` or `after` training.

        Raises:
            EngineLostError: The run failed, or no prompt has a result.
        """
        held_out, recipe = self.held_out, self.recipe
        if held_out is None:
            return
        folder = self.folder.path
        self._print_status(
            f"evaluating the policy {when} training, on {format_count(len(held_out.rows), 'held-out prompt')}"
        )
        policy = ["--policy", self.flags.policy]
        if when == "after":
            is_adapter = (self.out / "adapter_config.json").is_file()
            policy = [*policy, "--policy-adapter", str(self.out)] if is_adapter else ["--policy", str(self.out)]
        if recipe.judge_url is not None:
            judge = ["--judge-url", recipe.judge_url]
            judge += ["--judge-key", recipe.judge_key] if recipe.judge_key else []
        else:
            judge = self._build_judge_flags("--judge", "--judge-adapter")
            if recipe.judge_config is None:
                # Greedy, so that the same answer has the same score before and after.
                judge += ["--temperature", "0"]
        flags = {
            "policy-engine": recipe.held_out_engine,
            "samples": recipe.held_out_samples,
            "rubric": recipe.rubric,
            "seed": self.flags.args.seed,
            # Never reached: failed prompts are counted in the summary instead of ending the run.
            "max-failures": len(held_out.rows) * 2,
            "out": folder / when,
        }
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        arguments += ["--sample-tokens", str(held_out.tokens)] if held_out.tokens else []
        arguments += ["--answer", held_out.answer] if held_out.answer else []
        arguments += ["--sample-stop", *arithmetic.STOP] if held_out.is_task else []
        with self.folder.time_phase(f"measure_{when}"):
            run_subcommand("best-of-n", str(folder / PROMPTS), *arguments, *policy, *judge)
        # Failed prompts do not end a best-of-N run, but a comparison without any result would be meaningless.
        if not any(True for _ in read_rows(folder / when / "best_of_n.jsonl")):
            raise EngineLostError(f"no held-out prompt has a judged answer; see {folder / when / 'failed.jsonl'}")

    def _train_policy(self) -> None:
        flags, recipe, rows = self.flags, self.recipe, self.data.rows
        if flags.kind.name == "dpo":
            with self._show_training() as callbacks:
                tune_dpo(flags.model, flags.args, rows, callbacks)
            return
        from flex_judge.reward.trl import JudgeReward

        spec = RewardSpec(recipe.rubric, recipe.judge_method, recipe.judge_reward, recipe.judge_normalize)
        with ExitStack() as stack:
            url = recipe.judge_url
            if url is None:
                self._print_status("starting the judge")
                url = self.ranks.run_on_first(
                    lambda: stack.enter_context(
                        run_judge_server(*self._build_judge_flags("--model", "--adapter"), "--allow-inline-rubrics")
                    )
                )
            # One rank has all completions of a prompt in one call; with several ranks the service waits for the rest.
            group_size = flags.args.num_generations if spec.needs_group and self.ranks.count > 1 else None
            reward = JudgeReward(
                url,
                rubric=spec.rubric,
                method=spec.method,
                reward=spec.reward,
                normalize=spec.normalize,
                group_size=group_size,
                group_timeout_s=recipe.judge_group_timeout_s,
                api_key=read_key(recipe.judge_key) if recipe.judge_key else None,
                deadline_s=recipe.judge_deadline_s,
                # One id for all ranks, so that the service puts their completions into the same groups.
                run=self.ranks.run_on_first(lambda: uuid4().hex),
            )
            with self._show_training() as callbacks:
                tune_grpo(flags.model, flags.args, rows, reward, callbacks)

    def _write_summary(self) -> dict[str, Any]:
        folder, held_out = self.folder, self.held_out
        log = json.loads((self.out / LOG_FILE).read_text(encoding="utf-8"))
        losses = [entry["loss"] for entry in log["log"] if entry.get("loss") is not None]
        measured = None
        if held_out:
            rows_before, rows_after = (
                read_rows(folder.path / when / "best_of_n.jsonl") for when in ("before", "after")
            )
            measured = compare_policies(rows_before, rows_after, held_out.answer, self.flags.args.seed)
        summary = {
            **folder.settings,
            "policy": self.flags.policy,
            "rows": log["rows"],
            "rows_left_out": len(self.data.rows) - log["rows"],
            "bad_rows": len(self.data.problems),
            "loss": fmean(losses) if losses else None,
            "measured": measured,
            "trl": collect_trl_settings(self.flags),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_card(self.out, summary)
        write_text(folder.path / SUMMARY, dump_json(summary, indent=2, default=str) + "\n")
        return summary


def _load_data(flags: TrainingFlags) -> PolicyTrainingData:
    recipe = flags.recipe
    if flags.kind.name == "dpo":
        mapping = ColumnMapping.from_arguments(recipe.column or (), ("id", *PREFERENCE_FIELDS))
        # Pairs have no id; one of --held-out may have.
        columns = ColumnMapping(tuple((name, names) for name, names in mapping.columns if name != "id"))
        return load_preference_data(str(flags.data), columns)
    if flags.data is None:
        return load_prompt_data(arithmetic.ArithmeticSource(TASK_PROMPTS, flags.args.seed), PromptColumns())
    source, prompt_columns = open_source(flags.data), PromptColumns.from_arguments(recipe.column or ())
    prompt_columns.check_columns(source)
    return load_prompt_data(source, prompt_columns)
