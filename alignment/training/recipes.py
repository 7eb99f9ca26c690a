"""Settings of training runs that are not TRL's own: the judge, the evaluation, the held-out prompts.

Plain dataclass fields, as required by TRL's argument parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.embedded import JUDGE
from flex_judge.judges.rubrics import load_rubric
from flex_judge.reward.types import Normalization, RewardKind, RewardSpec

TASK = "task"
"""What the embedded task is called in place of a file."""
HELD_OUT_PROMPTS = 100


def _make_flag(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class PolicyRecipe:
    """Which judge, and which prompts the policy is measured on before and after."""

    _argument_group_name = "judge and evaluation"

    judge: str | None = _make_flag(
        None,
        "Judge model: embedded name, folder or hub id (default: that of the `flex-judge preferences` run "
        f"that is trained on, with its adapter or address; else {JUDGE}).",
    )
    judge_adapter: str | None = _make_flag(None, "LoRA adapter on the judge: folder or hub id.")
    judge_config: str | None = _make_flag(
        None, "YAML file with more settings of the judge, such as engine or votes (`flex-judge judge --help`)."
    )
    judge_url: str | None = _make_flag(None, "Judge service to use (flex-judge serve) instead of starting one.")
    judge_key: str | None = _make_flag(None, "Key of the judge service: env:NAME, or a file that holds it.")
    rubric: str | None = _make_flag(
        None, "Rubric (default: that of the data, else general; embedded task: correctness)."
    )
    held_out: str | None = _make_flag(
        None,
        "Held-out prompts: .jsonl, .parquet, hub:OWNER/NAME[:CONFIG][@SPLIT], or task for new questions of the "
        "embedded task (default: task for data of that task, else prompts taken out of the data).",
    )
    held_out_prompts: int | None = _make_flag(
        None,
        f"Number of held-out prompts, none of them trained on (default: {HELD_OUT_PROMPTS}, at most a tenth of the data).",
    )
    held_out_answer: str | None = _make_flag(None, "Column of --held-out with the number that is the right answer.")
    held_out_samples: int = _make_flag(4, "Number of answers sampled per held-out prompt.")
    held_out_tokens: int | None = _make_flag(
        None, "Maximum length of such an answer in tokens (default: 512; embedded task: 40)."
    )
    held_out_engine: str = _make_flag("auto", "Engine of the policy for held-out prompts: auto, vllm or transformers.")
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Column mapping of the prompts, as FIELD=COLUMN: prompt=, id= or images=."},
    )

    def __post_init__(self) -> None:
        for name, least in (("held_out_prompts", 0), ("held_out_samples", 1), ("held_out_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
        if self.held_out_answer is not None and self.held_out in (None, TASK):
            raise UsageError("--held-out-answer is a column of --held-out, and no file is given there")
        if self.rubric is not None:
            load_rubric(self.rubric)
        if self.judge_url is None and self.judge_key is not None:
            raise UsageError("--judge-key goes with --judge-url")
        if self.judge_url is not None and (self.judge or self.judge_config or self.judge_adapter):
            raise UsageError("--judge, --judge-adapter and --judge-config are for the service at --judge-url to say")
        if self.judge_adapter is not None and self.judge is None:
            raise UsageError("--judge-adapter goes with --judge, the model that it is on")

    def with_data_defaults(self, made_by: Mapping[str, str], is_task: bool) -> Self:
        """With the judge and the rubric that data were made by, where nothing else is asked for.

        Args:
            made_by: see `flex_judge.alignment.policy_training.data.Trained`.
            is_task: whether the data are of the embedded task.
        """
        judge: dict[str, Any] = {}
        if self.judge is None and self.judge_url is None:
            judge = {name: made_by[name] for name in ("judge", "judge_adapter", "judge_url") if name in made_by}
            if not judge or (self.judge_config and "judge_url" in judge):
                judge = {"judge": JUDGE}
        rubric = self.rubric or made_by.get("rubric") or ("correctness" if is_task else "general")
        return replace(self, rubric=rubric, **judge)


@dataclass
class RewardRecipe(PolicyRecipe):
    """As Recipe, and how the judge rewards a policy while it is trained."""

    judge_method: Literal["pointwise", "listwise", "round_robin", "knockout"] = field(
        default="pointwise", metadata={"help": "How the completions of a prompt are judged."}
    )
    judge_reward: RewardKind = field(
        default="expected", metadata={"help": "Statistic of the judgment that is the reward."}
    )
    judge_normalize: Normalization = field(
        default="none", metadata={"help": "Normalization of rewards within a prompt."}
    )
    judge_deadline_s: float = _make_flag(600.0, "Time limit for the rewards of a step, in seconds.")
    judge_group_timeout_s: float = _make_flag(
        60.0, "Time that a prompt's first completion waits for those of other ranks, in seconds."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        RewardSpec("general", self.judge_method, self.judge_reward, self.judge_normalize)
        if not 0 < self.judge_group_timeout_s < self.judge_deadline_s:
            raise UsageError("--judge-group-timeout-s must be above 0 and below --judge-deadline-s")


@dataclass
class JudgeRecipe:
    """How the judge is evaluated while it is trained."""

    _argument_group_name = "evaluation on held-out judgments"

    held_out: str | None = _make_flag(
        None,
        "Held-out judgments, .jsonl or .parquet as `flex-judge curate` writes them (default: held_out.jsonl of the "
        "data's folder). With --eval_strategy no they are judged after training only.",
    )
    held_out_rows: int | None = _make_flag(
        None, "Number of held-out judgments per evaluation, the first N (default: all); 0: no evaluation."
    )
    think_tokens: int | None = _make_flag(
        None, "Thinking budget of the evaluation in tokens (default: 1.5 times the longest reply of the data)."
    )
    effective_batch: int | None = _make_flag(
        None,
        "Judgments per step over all processes; sets --gradient_accumulation_steps from it, "
        "--per_device_train_batch_size and the number of processes.",
    )
    patience: int = _make_flag(0, "Early stopping: end training after N evaluations without a better metric; 0: never.")

    def compute_accumulation_steps(self, at_once: int) -> int | None:
        """Batches that make a step, where `at_once` judgments are computed at a time over all processes; None for what
        TRL's own flag says.

        Raises:
            UsageError: the one is no multiple of the other.
        """
        if self.effective_batch is None:
            return None
        if self.effective_batch % at_once:
            raise UsageError(
                f"--effective-batch {self.effective_batch} is no multiple of the {at_once} that all processes compute "
                "at once (--per_device_train_batch_size times processes)"
            )
        return self.effective_batch // at_once

    def __post_init__(self) -> None:
        for name, least in (("held_out_rows", 0), ("think_tokens", 1), ("patience", 0), ("effective_batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
        if self.held_out is not None and self.held_out_rows == 0:
            raise UsageError("--held-out names judgments to ask, and --held-out-rows 0 asks none; leave one out")
