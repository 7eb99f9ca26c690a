"""Completions of one call of a trainer, and their samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.judgments import Status
from flex_judge.reward.integrations.converted import ConvertedRows
from flex_judge.reward.settings import RewardSettings
from flex_judge.reward.turns import flatten_turns, regroup_rewards, split_sample
from flex_judge.reward.types import Reward, Sample


@dataclass(frozen=True, kw_only=True)
class RewardBatch:
    """Completions of one call of a trainer, and what the trainer passes with them."""

    prompts: Sequence[Any]
    """Texts or lists of messages, one per completion, in any order."""
    completions: Sequence[Any]
    """Texts or lists of messages."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Data set columns, each with one value per completion: media, tools and the baseline."""
    step: int | None = None
    """Training step, which keeps the groups of two steps apart; None if each call holds whole groups."""
    may_be_split: bool = False
    """Whether other ranks may have other completions of the same prompts."""
    counts_none_as_zero: bool = False
    """Whether the trainer counts a missing reward as 0."""
    token_counts: Sequence[int] | None = None
    """Number of tokens of each completion."""
    log_metric: Callable[[str, float], None] | None = None
    """Function that logs a number under a name."""
    log_column: Callable[[str, list[Any]], None] | None = None
    """Function that logs one value per completion under a name."""


class PreparedBatch:
    """Samples of a batch, split into turns."""

    def __init__(self, batch: RewardBatch, converted: ConvertedRows, settings: RewardSettings) -> None:
        """Split the samples of a batch.

        Args:
            batch: the completions.
            converted: their samples.
            settings: granularity, and whether only the last turn is judged.
        """
        self.batch, self.converted = batch, converted
        self.started = time.monotonic()
        self.turns = [split_sample(sample, settings.granularity) for sample in converted.samples]
        if settings.combination == "last":
            self.turns = [turns[-1:] for turns in self.turns]
        self.samples = flatten_turns(self.turns)

    def regroup_rewards(self, rewards: Sequence[Reward]) -> list[list[Reward]]:
        """Return the rewards of the turns of each row; a row that cannot be read has one, with the reason."""
        turns = iter(regroup_rewards(self.turns, rewards))
        problems = self.converted.problems
        return [
            [Reward(None, Status.INVALID_INPUT, detail=problems[i])] if i in problems else next(turns)
            for i in range(len(self.batch.prompts))
        ]

    def list_rows(self) -> list[Sample | None]:
        """List the sample of each row; None for a row that cannot be read."""
        samples = iter(self.converted.samples)
        return [None if i in self.converted.problems else next(samples) for i in range(len(self.batch.prompts))]
