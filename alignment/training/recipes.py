"""Settings of training runs that TRL does not have: the judge, the evaluation and the held-out prompts.

The recipes are plain dataclasses, because TRL's argument parser requires that.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from flex_judge.alignment.pipeline.judge_service import use_rubrics_of
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.embedded import JUDGE
from flex_judge.judges.rubrics import load_rubric
from flex_judge.reward.types import Normalization, RewardKind, RewardSpec

TASK = "task"
"""Name of the embedded task where a file of prompts is expected."""
HELD_OUT_PROMPTS = 100
"""Default number of held-out prompts."""


class _RepeatableFlag(argparse.Action):
    """Flag whose values are collected when it is repeated; unlike `extend`, it replaces a value from --config."""

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object
    ) -> None:
        """Add values of one occurrence of the flag."""
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if earlier is self.default else earlier), *values])


def _make_flag(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


def _describe_columns(fields: str) -> dict[str, Any]:
    """Describe the flag that maps columns of the data to fields."""
    return {
        "help": f"Column of the data that holds a field under another name: {fields}; may be repeated.",
        "metavar": "FIELD=COL",
        "action": _RepeatableFlag,
    }


def _check_minimum(recipe: Any, minimums: Mapping[str, int]) -> None:
    """Raise UsageError for a setting that is below its minimum. None is always valid."""
    for name, minimum in minimums.items():
        value = getattr(recipe, name)
        if value is not None and value < minimum:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {minimum}, not {value}")


@dataclass
class PolicyRecipe:
    """Settings of the judge, and of the held-out prompts for the evaluation before and after training."""

    _argument_group_name = "judge and evaluation"

    judge: str | None = _make_flag(
        None,
        "Judge model: embedded name, folder or hub id (default: the judge of the `flex-judge preferences` run that "
        f"made the data, with its adapter or URL; else {JUDGE}).",
    )
    judge_adapter: str | None = _make_flag(None, "LoRA adapter of the judge: folder or hub id.")
    judge_config: str | None = _make_flag(
        None, "YAML file with more settings of the judge, such as engine or votes (see `flex-judge judge --help`)."
    )
    judge_url: str | None = _make_flag(
        None, "URL of a judge service (flex-judge serve) to use instead of starting one."
    )
    judge_key: str | None = _make_flag(None, "API key of the judge service: env:NAME, or a file that contains it.")
    rubric: str | None = _make_flag(
        None, "Rubric (default: the rubric of the data, else general; embedded task: correctness)."
    )
    held_out: str | None = _make_flag(
        None,
        "Held-out prompts: a file, folder or hub:OWNER/NAME[:CONFIG][@SPLIT] as for DATA, or task for new questions of "
        "the embedded task (default: task for data of that task, else prompts taken out of the data).",
    )
    held_out_prompts: int | None = _make_flag(
        None,
        f"Number of held-out prompts, none of them trained on (default: {HELD_OUT_PROMPTS}, at most a tenth of the "
        "data); 0: no evaluation.",
    )
    held_out_answer: str | None = _make_flag(None, "Column of --held-out with the right answer as a number.")
    held_out_samples: int = _make_flag(4, "Number of answers sampled per held-out prompt.")
    held_out_tokens: int | None = _make_flag(
        None, "Maximum length of an answer to a held-out prompt in tokens (default: 512; embedded task: 40)."
    )
    held_out_engine: str = _make_flag("auto", "Engine of the policy for held-out prompts: auto, vllm or transformers.")
    column: list[str] | None = field(
        default=None,
        metadata=_describe_columns(
            "prompt, id, images, videos, audios, molecules or tools, and for dpo chosen or rejected"
        ),
    )

    def __post_init__(self) -> None:
        """Reject settings that are out of range or contradict each other."""
        _check_minimum(self, {"held_out_prompts": 0, "held_out_samples": 1, "held_out_tokens": 1})
        if self.held_out_answer is not None and self.held_out in (None, TASK):
            raise UsageError("--held-out-answer: names a column of a file; give the file with --held-out")
        use_rubrics_of(self.judge_url, self.judge_key)
        if self.rubric is not None:
            load_rubric(self.rubric)
        if self.judge_url is None and self.judge_key is not None:
            raise UsageError("--judge-key requires --judge-url")
        if self.judge_url is not None and (self.judge or self.judge_config or self.judge_adapter):
            raise UsageError(
                "--judge, --judge-adapter, --judge-config: not allowed with --judge-url, whose service determines them"
            )
        if self.judge_adapter is not None and self.judge is None:
            raise UsageError("--judge-adapter requires --judge, the model that the adapter belongs to")

    def with_data_defaults(self, made_by: Mapping[str, str], is_task: bool) -> Self:
        """Fill in the judge and the rubric that made the data, unless the user gave others.

        Args:
            made_by: Origin of the data, see `flex_judge.alignment.policy_training.data.PolicyTrainingData`.
            is_task: Whether the data belongs to the embedded task.
        """
        judge: dict[str, Any] = {}
        if self.judge is None and self.judge_url is None:
            judge = {name: made_by[name] for name in ("judge", "judge_adapter", "judge_url") if name in made_by}
            # A configuration of the judge cannot be applied to a running service.
            if not judge or (self.judge_config and "judge_url" in judge):
                judge = {"judge": JUDGE}
        rubric = self.rubric or made_by.get("rubric") or ("correctness" if is_task else "general")
        return replace(self, rubric=rubric, **judge)


@dataclass
class RewardRecipe(PolicyRecipe):
    """Settings of PolicyRecipe, and of the judge's rewards during training."""

    judge_method: Literal["pointwise", "listwise", "round_robin", "circular", "swiss", "knockout"] = field(
        default="pointwise", metadata={"help": "Method that judges the completions of a prompt."}
    )
    judge_reward: RewardKind = field(
        default="expected", metadata={"help": "Statistic of the judgments that becomes the reward."}
    )
    judge_normalize: Normalization = field(
        default="none", metadata={"help": "Normalization of the rewards of a prompt."}
    )
    judge_deadline_s: float = _make_flag(600.0, "Maximum time for the rewards of a step, in seconds.")
    judge_group_timeout_s: float = _make_flag(
        60.0,
        "Maximum wait of a prompt's first completion for those of other ranks, in seconds.",
    )

    def __post_init__(self) -> None:
        """Reject settings that are out of range or contradict each other."""
        super().__post_init__()
        # The constructor checks that the settings fit each other.
        RewardSpec("general", self.judge_method, self.judge_reward, self.judge_normalize)
        if not 0 < self.judge_group_timeout_s < self.judge_deadline_s:
            raise UsageError("--judge-group-timeout-s must be above 0 and below --judge-deadline-s")


@dataclass
class JudgeRecipe:
    """Settings of the evaluation of a judge during its training."""

    _argument_group_name = "evaluation on held-out judgments"

    held_out: str | None = _make_flag(
        None,
        "Held-out judgments as written by `flex-judge curate`, in any format of DATA (default: held_out.jsonl in the "
        "folder of the data). With --eval_strategy no they are judged after training only.",
    )
    held_out_rows: int | None = _make_flag(
        None, "Number of held-out judgments per evaluation, the first N (default: all); 0: no evaluation."
    )
    think_tokens: int | None = _make_flag(
        None, "Thinking budget of the evaluation in tokens (default: 1.5 times the longest reply of the data)."
    )
    effective_batch: int | None = _make_flag(
        None,
        "Number of judgments per optimizer step over all processes (default: determined by TRL's flags); sets "
        "--gradient_accumulation_steps.",
    )
    column: list[str] | None = field(
        default=None,
        metadata=_describe_columns(
            "prompt, completion or text, and for held-out judgments question, responses, rubric, scores or "
            "reference_scores"
        ),
    )
    patience: int = _make_flag(0, "Early stopping: end training after N evaluations without a better metric; 0: never.")

    def compute_accumulation_steps(self, at_once: int) -> int | None:
        """Compute the number of gradient accumulation steps from the effective batch size.

        Args:
            at_once: Number of judgments in one forward pass over all processes.

        Returns:
            The number of steps, or None if TRL's own flag determines it.

        Raises:
            UsageError: The effective batch size is not a multiple of `at_once`.
        """
        if self.effective_batch is None:
            return None
        if self.effective_batch % at_once:
            raise UsageError(
                f"--effective-batch {self.effective_batch}: must be a multiple of {at_once} "
                "(--per_device_train_batch_size times the number of processes)"
            )
        return self.effective_batch // at_once

    def __post_init__(self) -> None:
        """Reject settings that are out of range or contradict each other."""
        _check_minimum(self, {"held_out_rows": 0, "think_tokens": 1, "patience": 0, "effective_batch": 1})
        if self.held_out is not None and self.held_out_rows == 0:
            raise UsageError("--held-out-rows 0: contradicts --held-out; omit one of them")
