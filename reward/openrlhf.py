"""The judge as OpenRLHF's agent: it scores each completion in the process that generated it.

Unlike the remote reward model (`--reward.remote_url`, see `flex_judge.reward.server.openrlhf`), the agent sends the
prompt's images, settings of its own, and a key in a header; and it can leave out the prompt of an unscored completion.
Write a file, and pass it with `--train.agent_func_path judge_agent.py`:

    from flex_judge.reward.openrlhf import JudgeAgentExecutor

    class AgentExecutor(JudgeAgentExecutor):
        def __init__(self):
            super().__init__("http://10.0.0.1:8000", method="round_robin", reward="win_rate", group_size=8)

This module imports OpenRLHF.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from openrlhf.utils.agent import SingleTurnAgentExecutor

from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import get_rubric
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.integrations.single_completions import (
    Unscored,
    choose_value,
    get_fill_value,
    require_group_size,
)
from flex_judge.reward.types import Reward, RewardSpec

CONCURRENCY = 64

__all__ = ["JudgeAgentExecutor"]


class JudgeAgentExecutor(SingleTurnAgentExecutor):
    """Agent that generates one completion per prompt and asks a judge service for its reward.

    OpenRLHF generates all completions of a prompt in one process. With a group size, the service collects them, and
    the judge compares whole groups.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline_s: float | None = None,
        concurrency: int = CONCURRENCY,
        unscored: Unscored = "raise",
        **spec: Any,
    ) -> None:
        """Configure the agent.

        Args:
            url: URL of the judge service.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            concurrency: maximum number of concurrent requests of each rollout process.
            unscored: what happens to a completion without a score. `raise` ends the run. `mean` gives it 0, which is
                its group's mean with `normalize`, so that its advantage is about 0. `nan` drops its prompt, and
                OpenRLHF takes another one: only with `--algo.dynamic_filtering_enable`, else NaN spoils the batch.
            spec: rubric, method, reward, normalize, group_size and group_timeout_s, see
                `flex_judge.reward.types.RewardSpec`. group_size must equal `--rollout.n_samples_per_prompt`, and
                `--eval.n_samples_per_prompt` in an evaluation.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        super().__init__()
        self._spec = RewardSpec(**spec)
        self._fill_value = get_fill_value(unscored, self._spec)
        require_group_size(self._spec, "set it to --rollout.n_samples_per_prompt")
        client = resolve_judge(url, api_key, deadline_s, concurrency=concurrency)
        assert isinstance(client, JudgeClient)
        self._client = client
        self._group = uuid4().hex  # the completions of a prompt are generated in this process alone
        self._scale: tuple[float, float] | None = None

    async def execute(
        self,
        prompt: str,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Generate and judge one completion.

        Returns:
            OpenRLHF's output, with `reward`, `scores` (0 to 1; NaN if unscored) and `extra_logs`.

        Raises:
            UnscoredError: the completion has no score, and unscored is "raise".
            ServiceUnavailableError: the service judges nothing in consecutive calls.
        """
        output: dict[str, Any] = await super().execute(
            prompt, label, sampling_params, max_length, hf_tokenizer, llm_engine, images=images
        )
        start, end = output["action_ranges"][-1]
        response = hf_tokenizer.decode(output["observation_tokens"][start:end], skip_special_tokens=True)
        reward = await self._judge_completion(prompt, response, images)
        value = choose_value(reward, self._fill_value)
        logs = {
            "judge_ok": float(reward.value is not None),
            "judge_group_whole": float(reward.is_whole),
            "judge_tokens": float(reward.usage.generated_tokens),
        }
        return output | {"reward": value, "scores": await self._compute_score(reward), "extra_logs": logs}

    async def _judge_completion(self, prompt: str, response: str, images: Any) -> Reward:
        columns = {"images": [images] if isinstance(images, str | Mapping) else images} if images else {}
        row = {"prompt": prompt, "response": response, "columns": columns, "group": self._group}
        (reward,) = await RowConverter().convert_rows([row], "prompt").judge(self._client, self._spec)
        return reward

    async def _compute_score(self, reward: Reward) -> float:
        """Scale the score to the range from 0 to 1, by which OpenRLHF filters prompts; NaN without a score."""
        score = reward.best_score
        if reward.value is None or score is None:
            return math.nan
        if self._scale is None:
            self._scale = await self._find_scale()
        low, high = self._scale
        return (score - low) / (high - low)

    async def _find_scale(self) -> tuple[float, float]:
        """Find the lowest and highest score of the rubric: a preset, a file, or a rubric of the service."""
        name = self._spec.rubric
        try:
            scale = get_rubric(name).scale
        except UsageError:
            scales = {card["name"]: card["scale"] for card in await self._client.rubrics()}
            low, _, high = (scales[name] or "0-1").partition("-")  # null: options, whose scores are from 0 to 1
            return float(low), float(high)
        return scale.low, scale.high
