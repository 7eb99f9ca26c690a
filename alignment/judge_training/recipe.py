"""The settings of `flex-judge sft` that are not TRL's. Plain fields, as TRL's parser of dataclasses wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.errors import UsageError


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class JudgeRecipe:
    """The exam that the judge sits while it is trained."""

    _argument_group_name = "the exam on held-out judgments"

    held_out: str | None = _flag(
        None,
        "Held-out judgments, .jsonl or .parquet as `flex-judge curate` writes them (default: held_out.jsonl of the "
        "data's folder). With --eval_strategy no they are asked after training only.",
    )
    held_out_rows: int | None = _flag(None, "How many, the first ones, are asked at each exam (all); 0: no exam.")
    think_tokens: int | None = _flag(
        None, "Budget of the thinking in the exam (half as much again as the longest reply of the data)."
    )
    effective_batch: int | None = _flag(
        None,
        "Judgments a step over all processes; sets --gradient_accumulation_steps to what is left of it after "
        "--per_device_train_batch_size and the processes.",
    )
    patience: int = _flag(0, "End training after so many exams in a row without a better grade; 0: never.")

    def accumulation(self, at_once: int) -> int | None:
        """Batches that make a step, where `at_once` judgments are computed at a time over all processes; None for what
        TRL's own flag says.

        Raises:
            UsageError: the one is no multiple of the other.
        """
        if self.effective_batch is None:
            return None
        if self.effective_batch % at_once:
            raise UsageError(
                f"--effective_batch {self.effective_batch} is no multiple of the {at_once} that all processes compute "
                "at once (--per_device_train_batch_size times processes)"
            )
        return self.effective_batch // at_once

    def __post_init__(self) -> None:
        for name, least in (("held_out_rows", 0), ("think_tokens", 1), ("patience", 0), ("effective_batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} must be at least {least}, not {value}")
        if self.held_out is not None and self.held_out_rows == 0:
            raise UsageError("--held_out names judgments to ask, and --held_out_rows 0 asks none; leave one out")
