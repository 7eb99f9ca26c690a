"""The judge as reward functions of verifiers' rubrics, and as a judge for its version 1.

    rubric = vf.Rubric(funcs=[judge_reward("http://10.0.0.1:8000", rubric="correctness")])

A completion without a score is an error, never a number. But `Rubric` catches what a reward function raises and counts
it as 0, so `state["error"]` is set as well: by that verifiers and its trainers know a rollout that failed and must not
be learnt from. In version 1 an error of a judge is the rollout's by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import JudgeError, UnscoredError, UsageError
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter, prefix_row_error
from flex_judge.reward.types import Reward, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.reward.client.client import JudgeClient

NAME = "flex_judge"
CONCURRENCY = 64

__all__ = ["TraceJudge", "judge_group_reward", "judge_reward"]


def judge_reward(
    judge: FlexJudge | JudgeClient | str,
    *,
    name: str = NAME,
    api_key: str | None = None,
    deadline_s: float | None = None,
    **spec: Any,
) -> Callable[..., Awaitable[float]]:
    """A reward function for single rollouts.

    Args:
        judge: the URL of a judge service, a client of one, or a judge in this process.
        name: under which verifiers reports it.
        api_key: the service's key; None takes the environment's FLEX_JUDGE_API_KEY.
        deadline_s: seconds that a call may take, by default 600.
        spec: rubric, method, reward, normalize, group_size, group_timeout_s, see
            `flex_judge.reward.types.RewardSpec`. With a
            group_size the service collects the rollouts of a prompt; `judge_group_reward` needs none. And `run`, a name
            that tells these groups from those of other runs on the same service.

    Raises:
        UsageError: a setting that does not exist or does not go with another.
    """
    asker = _RolloutScorer(judge, api_key, deadline_s, spec)

    async def reward(prompt: Any, completion: Any, answer: Any, state: Any, task: Any, info: Any) -> float:
        """Raises UnscoredError without a score, UsageError or ServiceUnavailableError; `state["error"]` says so too."""
        del answer, task, info  # verifiers goes by the names of the parameters
        (value,) = await asker.score_rollouts([prompt], [completion], [state])
        return value

    reward.__name__ = reward.__qualname__ = name
    return reward


def judge_group_reward(
    judge: FlexJudge | JudgeClient | str,
    *,
    name: str = NAME,
    api_key: str | None = None,
    deadline_s: float | None = None,
    **spec: Any,
) -> Callable[..., Awaitable[list[float]]]:
    """A reward function for all rollouts of a group at once, which can be compared with each other. See
    `judge_reward`.
    """
    asker = _RolloutScorer(judge, api_key, deadline_s, spec)

    async def reward(prompts: Any, completions: Any, answers: Any, states: Any, tasks: Any, infos: Any) -> list[float]:
        """As that of `judge_reward`; one rollout without a score is an error of the group."""
        del answers, tasks, infos
        return await asker.score_rollouts(prompts, completions, states)

    reward.__name__ = reward.__qualname__ = name
    return reward


class TraceJudge:
    """A judge of traces, for verifiers' version 1.

    Example:
        >>> class MyTask(vf.Task):
        ...     @vf.reward
        ...     async def quality(self, task, trace) -> float:
        ...         return await JUDGE.score(task, trace)
    """

    def __init__(
        self,
        judge: FlexJudge | JudgeClient | str,
        *,
        transcript: bool = False,
        api_key: str | None = None,
        deadline_s: float | None = None,
        **spec: Any,
    ) -> None:
        """Args:
        judge: see `judge_reward`, as for the others.
        transcript: whether the whole transcript is judged, not the last reply alone.
        """
        self._asker = _RolloutScorer(judge, api_key, deadline_s, spec)
        self._transcript = transcript

    async def score(self, task: Any, trace: Any) -> float:
        """Judge a trace.

        Args:
            task: the task's data, with `prompt` (text or messages) and `system_prompt`.
            trace: the rollout, with `last_reply` and `transcript`.

        Raises:
            UnscoredError: it has no score. And UsageError, ServiceUnavailableError.
        """
        (value,) = await self.score_group(task, [trace])
        return value

    async def score_group(self, task: Any, traces: Sequence[Any]) -> list[float]:
        """Judge all traces of a task at once, as `@vf.group_reward` has them."""
        prompt = _build_prompt(task)
        replies = [trace.transcript if self._transcript else trace.last_reply for trace in traces]
        return await self._asker.score_rollouts([prompt] * len(traces), replies, [None] * len(traces))


class _RolloutScorer:
    """Has rollouts judged and refuses to go on without a score."""

    def __init__(
        self, judge: FlexJudge | JudgeClient | str, api_key: str | None, deadline_s: float | None, spec: dict[str, Any]
    ) -> None:
        if spec.get("method") == "baseline":
            raise UsageError("method 'baseline' has no answers to compare with here; choose another one")
        limits = {"concurrency": CONCURRENCY} if isinstance(judge, str) else {}
        self._judge = resolve_judge(judge, api_key, deadline_s, **limits)
        self._run = spec.pop("run", None)
        self._spec = RewardSpec(**spec)

    async def score_rollouts(
        self, prompts: Sequence[Any], completions: Sequence[Any], states: Sequence[Any]
    ) -> list[float]:
        try:
            rewards = await self._judge.rewards(_build_samples(prompts, completions, self._run), self._spec)
            return _require_scores(rewards)
        except JudgeError as e:
            for state in states:
                if isinstance(state, MutableMapping) and state.get("error") is None:
                    state["error"] = e
            raise


def _build_samples(prompts: Sequence[Any], completions: Sequence[Any], run: str | None) -> list[Sample]:
    rows, samples = RowConverter(), []
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            samples.append(rows.build_sample(prompt, completion, group=run))
        except UsageError as e:
            raise prefix_row_error(e, "prompts", i) from e
    return samples


def _require_scores(rewards: Sequence[Reward]) -> list[float]:
    lost = [r for r in rewards if r.value is None]
    if lost:
        raise UnscoredError(
            f"{len(lost)} of {len(rewards)} rollouts have no score; the first: {lost[0].status}: {lost[0].detail}"
        )
    return [r.value for r in rewards if r.value is not None]


def _build_prompt(task: Any) -> Any:
    """A task's prompt, after its system prompt."""
    prompt, system = task.prompt, getattr(task, "system_prompt", None)
    if prompt is None:
        raise UsageError("the task has no prompt for the judge to go by (its user opens the conversation)")
    if not system:
        return prompt
    opening = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *opening]
