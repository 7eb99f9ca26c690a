"""Reward manager for verl, loaded as `flex_judge.reward.verl.JudgeRewardManager`. This module imports verl."""

from __future__ import annotations

from typing import Any

import numpy as np
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager

from flex_judge.reward.integrations.single_completions import GROUP_KEY, GROUP_SIZE_KEY, ROLLOUT_PROMPT_KEY


class JudgeRewardManager(NaiveRewardManager):
    """verl's naive reward manager, which also passes on the prompt and the group of each completion.

    The reward function finds three more keys in `extra_info`: `raw_prompt`, the messages of the rollout with their
    images; `uid`, which verl makes for each prompt of a step; and `rollout_n`, the number of its completions.
    """

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Score the last sequence of one rollout.

        Args:
            data: a DataProto with the sequences of one rollout.

        Returns:
            `reward_score` and `reward_extra_info`.
        """
        last = data[-1:]  # a new DataProto: the caller's extra_info is not changed
        columns = last[0].non_tensor_batch
        extra_info = {**(columns.get("extra_info") or {}), GROUP_SIZE_KEY: self.config.actor_rollout_ref.rollout.n}
        extra_info |= {key: columns[key] for key in (GROUP_KEY, ROLLOUT_PROMPT_KEY) if key in columns}
        cell = np.empty(1, dtype=object)
        cell[0] = extra_info
        last.non_tensor_batch["extra_info"] = cell
        result: dict[str, Any] = await super().run_single(last)
        return result
