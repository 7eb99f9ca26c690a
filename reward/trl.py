"""The judge as a reward function of TRL's trainers, within the trainer's own process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from judges import Comparison, FlexJudge
from judges.errors import UsageError
from reward.scoring import REWARDS


class JudgeReward:
    """A reward function for GRPOTrainer, RLOOTrainer and their like: one score per completion.

    A completion that could not be scored gets None, which TRL leaves out of the group; it is never a number.

    Example:
        >>> reward = JudgeReward(FlexJudge.from_pretrained("smollm2-135m", max_think_tokens=64))
        >>> trainer = GRPOTrainer(model=..., reward_funcs=reward, train_dataset=...)
    """

    __name__ = "flex_judge"  # TRL logs a reward under its function's name

    def __init__(self, judge: FlexJudge, rubric: str = "general", reward: str = "expected") -> None:
        if reward not in REWARDS:
            raise UsageError(f"reward {reward!r} does not exist; choose one of {', '.join(REWARDS)}")
        self.judge = judge
        self.rubric = rubric
        self.reward = REWARDS[reward]

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        """Judge every completion by itself.

        Args:
            prompts: strings or lists of messages, as many as completions.
            completions: strings or lists of messages.
        """
        comparisons = [
            Comparison.of(prompt, completion, rubric=self.rubric, id=str(i))
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        return [self.reward(judgment) for judgment in self.judge.judge(comparisons)]
