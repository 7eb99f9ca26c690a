"""The judge as reward functions of verifiers' rubrics, and as a judge of traces for its version 1.

    rubric = vf.Rubric(funcs=[judge_reward("http://10.0.0.1:8000", rubric="correctness")])

A completion without a score raises an error; it never becomes a number. `Rubric` catches errors of reward functions and
counts them as 0, so the error is also stored in `state["error"]`: verifiers and its trainers use it to exclude failed
rollouts from training. In version 1, an error of a judge marks its rollout as failed without this step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import JudgeError, UnscoredError, UsageError
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.types import Reward, RewardSpec

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
    """Create a reward function for single rollouts.

    Args:
        judge: the URL of a judge service, a client of one, or a judge in this process.
        name: name of the reward in verifiers' reports.
        api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
        deadline_s: time limit of a call in seconds (default 600).
        spec: rubric, method, reward, normalize, group_size and group_timeout_s, see
            `flex_judge.reward.types.RewardSpec`. `view="final"` shows the judge only the final answer of a completion
            with several messages. With a group_size, the service collects the rollouts of a prompt
            (`judge_group_reward` does not need it); `run` then names this run, to
            separate its groups from other runs on the same service.

    Raises:
        UsageError: a setting has an invalid value or conflicts with another one.
    """
    scorer = _RolloutScorer(judge, api_key, deadline_s, spec)

    # verifiers passes arguments by parameter name, so all names are kept, also of unused ones.
    async def score_rollout(prompt: Any, completion: Any, answer: Any, state: Any, task: Any, info: Any) -> float:
        """Score one rollout; an error is raised and stored in `state["error"]`."""
        del answer, task, info
        (value,) = await scorer.score_rollouts([prompt], [completion], [state])
        return value

    score_rollout.__name__ = score_rollout.__qualname__ = name
    return score_rollout


def judge_group_reward(
    judge: FlexJudge | JudgeClient | str,
    *,
    name: str = NAME,
    api_key: str | None = None,
    deadline_s: float | None = None,
    **spec: Any,
) -> Callable[..., Awaitable[list[float]]]:
    """Create a reward function for all rollouts of a group, which can be compared with each other.

    The arguments are the same as for `judge_reward`. A single rollout without a score is an error of the whole group.
    """
    scorer = _RolloutScorer(judge, api_key, deadline_s, spec)

    async def score_group(
        prompts: Any, completions: Any, answers: Any, states: Any, tasks: Any, infos: Any
    ) -> list[float]:
        """Score all rollouts of a group; an error is raised and stored in each `state["error"]`."""
        del answers, tasks, infos
        return await scorer.score_rollouts(prompts, completions, states)

    score_group.__name__ = score_group.__qualname__ = name
    return score_group


class TraceJudge:
    """Judge of traces, for verifiers' version 1.

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
        """Configure the judge.

        Args:
            judge: the URL of a judge service, a client of one, or a judge in this process.
            transcript: judge the whole transcript instead of the last reply.
            api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
            deadline_s: time limit of a call in seconds (default 600).
            spec: see `judge_reward`.
        """
        self._scorer = _RolloutScorer(judge, api_key, deadline_s, spec)
        self._transcript = transcript

    async def score(self, task: Any, trace: Any) -> float:
        """Score a trace.

        Args:
            task: the task's data, with `prompt` (text or messages) and `system_prompt`.
            trace: the rollout, with `last_reply` and `transcript`.

        Raises:
            UnscoredError: the judge gave no score.
            UsageError: the trace cannot be judged.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
        """
        (value,) = await self.score_group(task, [trace])
        return value

    async def score_group(self, task: Any, traces: Sequence[Any]) -> list[float]:
        """Score all traces of a task together, as a `@vf.group_reward` does."""
        prompt = _build_prompt(task)
        replies = [trace.transcript if self._transcript else trace.last_reply for trace in traces]
        return await self._scorer.score_rollouts([prompt] * len(traces), replies, [None] * len(traces))


class _RolloutScorer:
    """Scorer of rollouts that raises an error if one has no score."""

    def __init__(
        self, judge: FlexJudge | JudgeClient | str, api_key: str | None, deadline_s: float | None, spec: dict[str, Any]
    ) -> None:
        if spec.get("method") == "baseline":
            raise UsageError("method 'baseline' has no answers to compare with here; choose another method")
        limits = {"concurrency": CONCURRENCY} if isinstance(judge, str) else {}
        self._judge = resolve_judge(judge, api_key, deadline_s, **limits)
        self._run = spec.pop("run", None)
        self._view: View = spec.pop("view", "full")
        RowConverter(self._view)  # checks the view
        self._spec = RewardSpec(**spec)

    async def score_rollouts(
        self, prompts: Sequence[Any], completions: Sequence[Any], states: Sequence[Any]
    ) -> list[float]:
        """Score rollouts; an error is raised and stored in all states that have no error yet."""
        try:
            rows = [
                {"prompt": prompt, "response": completion, "group": self._run}
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
            converted = RowConverter(self._view).convert_rows(rows)
            rewards = await self._judge.rewards(converted.samples, self._spec)
            return _require_scores(converted.insert_failures(rewards))
        except JudgeError as e:
            for state in states:
                if isinstance(state, MutableMapping) and state.get("error") is None:
                    state["error"] = e
            raise


def _require_scores(rewards: Sequence[Reward]) -> list[float]:
    failed = [r for r in rewards if r.value is None]
    if failed:
        raise UnscoredError(
            f"{len(failed)} of {len(rewards)} rollouts have no score; the first: {failed[0].status}: {failed[0].detail}"
        )
    return [r.value for r in rewards if r.value is not None]


def _build_prompt(task: Any) -> Any:
    """Build the messages of a task's prompt, starting with its system prompt."""
    prompt, system = task.prompt, getattr(task, "system_prompt", None)
    if prompt is None:
        raise UsageError("the task has no prompt to judge by (its user opens the conversation)")
    if not system:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *messages]
