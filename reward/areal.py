"""The judge for AReaL: a workflow whose rewards come from a judge service, and an awaitable judge for agents.

    trainer.train(
        workflow="flex_judge.reward.areal.JudgeWorkflow",
        workflow_kwargs={"judge": "http://10.0.0.1:8000", "settings": {"rubric": "correctness"}, "gconfig": ..., ...},
    )

Do not pass a judge as `reward_fn`: AReaL's AsyncRewardWrapper gives a reward function 15 seconds, and then 0. The
workflow of this module awaits the judge instead. A rollout without a score raises an error, and AReaL rejects the
whole group and takes another prompt: its group normalization divides a batch into equal groups, so a single missing
member would mix the groups after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.reward.integrations.scoring import ConversationScorer
from flex_judge.reward.integrations.single_completions import require_group_size
from flex_judge.reward.turns import Granularity
from flex_judge.reward.types import Reward

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.reward.client.client import JudgeClient

__all__ = ["EpisodeJudge", "JudgeWorkflow"]  # noqa: F822 - JudgeWorkflow is built on first access

RLVR = "areal.workflow.rlvr.RLVRWorkflow"
PROMPT_KEYS = ("messages_chat", "messages")
"""Columns with the prompt's messages; image data sets have the first, and text with marks in `messages`."""
_PROCESS_ID = uuid4().hex[:16]
"""Separates the groups of processes, which number their tasks independently."""


class EpisodeJudge:
    """Awaitable judge with the arguments of AReaL's reward functions, also for agents that compute their own reward.

    Example:
        >>> class Agent:
        ...     async def run(self, data, **extra):
        ...         messages = await solve(data, **extra)
        ...         return await JUDGE.score_response(data, messages)
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        *,
        run: str | None = None,
        tokenizer: Any = None,
        api_key: str | None = None,
        deadline_s: float | None = None,
        view: View = "full",
        **spec: Any,
    ) -> None:
        """Configure the judge.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            run: name that separates the groups of this process from others on the same service; None makes one.
            tokenizer: the policy's tokenizer, which decodes completions without control tokens; AReaL keeps them in the
                text.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            view: what the judge sees of a response with several messages: `full`, or the `final` answer.
            spec: rubric, method, reward, normalize, group_size and group_timeout_s, see
                `flex_judge.reward.types.RewardSpec`. Settings that compare completions need a group_size, equal to
                `gconfig.n_samples`: the service collects the completions, which AReaL makes one by one.

        Raises:
            UsageError: a setting has an invalid value or conflicts with another one.
        """
        self._scorer = ConversationScorer(judge, api_key=api_key, deadline_s=deadline_s, view=view, **spec)
        require_group_size(self._scorer.spec, "set it to gconfig.n_samples")
        self._run = _PROCESS_ID if run is None else run
        self.tokenizer = tokenizer

    async def __call__(
        self, prompt: str, completions: str, prompt_ids: Any = None, completion_ids: Any = None, **data: Any
    ) -> float:
        """Score a completion, with the arguments of a reward function of AReaL.

        Args:
            prompt: the prompt as text; used only if the data have no messages.
            completions: the completion as text.
            prompt_ids: not used.
            completion_ids: token ids of the completion, decoded if there is a tokenizer.
            data: columns of the data set; used are `messages`, `messages_chat`, the media columns and `tools`.

        Raises:
            UnscoredError: the completion has no score.
            UsageError: the service rejects the settings.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
        """
        del prompt_ids  # part of AReaL's interface
        text = completions
        if self.tokenizer is not None and completion_ids is not None:
            text = self.tokenizer.decode(completion_ids, skip_special_tokens=True)
        return await self.score_response({"prompt": prompt, **data}, text)

    async def score_response(self, data: Mapping[str, Any], response: Any) -> float:
        """Score a response to the prompt of a row.

        Args:
            data: columns of the data set, see `__call__`; `prompt` is used if there are no messages.
            response: text, or the messages that the agent and its tools wrote.

        Raises:
            UnscoredError: the response has no score.
        """
        (reward,) = await self._scorer.score_rows([self._build_row(data, response)])
        return _require_value(reward)

    async def score_turns(
        self, data: Mapping[str, Any], response: Any, granularity: Granularity = "turn"
    ) -> list[float]:
        """Score each turn of a response, with the conversation before it as the prompt.

        An agent returns them by the ids of its completions, `dict(zip(ids, scores))`.

        Args:
            data: columns of the data set, see `score_response`.
            response: the messages that the agent and its tools wrote.
            granularity: `turn` for each assistant message, or `step` for each with its tool results.

        Returns:
            One value per assistant message.

        Raises:
            UnscoredError: a turn has no score.
            UsageError: the settings compare completions, which turns of different conversations are not.
        """
        rewards = await self._scorer.score_turns(self._build_row(data, response), granularity)
        return [_require_value(reward) for reward in rewards]

    def _build_row(self, data: Mapping[str, Any], response: Any) -> dict[str, Any]:
        prompts = [data[key] for key in PROMPT_KEYS if isinstance(data.get(key), list | tuple)]
        prompt = prompts[0] if prompts else data.get("prompt", data.get("messages"))
        return {"prompt": prompt, "response": response, "columns": data, "group": self._name_group()}

    def _name_group(self) -> str | None:
        """Name the group of the running task: AReaL rolls out all samples of a prompt in one task."""
        if self._scorer.spec.group_size is None:
            return None
        task = import_module("areal.infra.workflow_context").get().task_id
        return f"{self._run} task {task}"


class _JudgeWorkflow:
    """Workflow of AReaL whose rewards come from a judge.

    It runs another workflow and awaits the judge in place of its reward function.
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        settings: Mapping[str, Any] | None = None,
        workflow: str | type[Any] = RLVR,
        **workflow_kwargs: Any,
    ) -> None:
        """Create the workflow.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            settings: other arguments of `EpisodeJudge`.
            workflow: class of the workflow, or its import path. It must await its attribute `async_reward_fn`, as
                AReaL's RLVRWorkflow and VisionRLVRWorkflow do.
            workflow_kwargs: arguments of that workflow without `reward_fn`, such as gconfig and tokenizer.

        Raises:
            UsageError: the workflow has no `async_reward_fn`, or a setting is invalid.
        """
        episode_judge = EpisodeJudge(judge, **(settings or {}))
        if isinstance(workflow, str):
            workflow = import_module("areal.utils.dynamic_import").import_from_string(workflow)
        # A function is wrapped at once and a path on first use, so the wrapper is replaced after a function.
        self._workflow: Any = workflow(reward_fn=episode_judge, **workflow_kwargs)  # type: ignore[operator]
        if not hasattr(self._workflow, "async_reward_fn"):
            raise UsageError(
                f"workflow: {type(self._workflow).__name__} has no attribute async_reward_fn; use a workflow that "
                "awaits one, or await an EpisodeJudge in an agent of your own"
            )
        episode_judge.tokenizer = getattr(self._workflow, "tokenizer", None)
        self._workflow.async_reward_fn = episode_judge

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        """Run one episode.

        Raises:
            UnscoredError: the completion has no score; AReaL then rejects the group.
        """
        return await self._workflow.arun_episode(engine, data)


def _require_value(reward: Reward) -> float:
    if reward.value is None:
        raise UnscoredError(f"a rollout has no score and is rejected: {reward.status}: {reward.detail}")
    return reward.value


@cache
def _get_workflow_class() -> type[Any]:
    base = import_module("areal.api.workflow_api").RolloutWorkflow
    return type("JudgeWorkflow", (_JudgeWorkflow, base), {"__doc__": _JudgeWorkflow.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Build `JudgeWorkflow` on first access, because it derives from a class of AReaL."""
    if name == "JudgeWorkflow":
        return _get_workflow_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
