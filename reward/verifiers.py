"""The judge as plug-ins of verifiers (0.4): a judge of traces, and an environment that compares attempts.

verifiers finds both by the id `flex-judge`, in the configuration of a run:

    [[env.taskset.task.judges]]
    id = "flex-judge"
    url = "http://10.0.0.1:8000"
    rubric = "correctness"

A trace without a score raises UnscoredError, so that verifiers marks the rollout as failed; it never becomes a number.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Self

import verifiers.v1 as vf
from pydantic import Field, model_validator

from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UsageError
from flex_judge.reward.client.client import KEY_VARIABLE, JudgeClient
from flex_judge.reward.integrations.service import ServiceSettings, judge_rows, require_values
from flex_judge.reward.types import Reward

ID = "flex-judge"
UNUSED_SETTINGS = ("base_url", "headers", "headers_from_env", "timeout", "model", "sampling", "prompt")
"""Settings of verifiers' own judges, which call a model themselves."""
STATISTICS = ("score", "expected", "win_rate", "rank", "margin", "disagreement")
"""Fields of a reward that become metrics of its trace."""
PRICED_TOKENS = 1_000_000

__all__ = ["JudgedGroupEnv", "JudgedGroupEnvConfig", "TraceJudge", "TraceJudgeConfig"]


class TraceJudgeConfig(ServiceSettings, vf.JudgeConfig):
    """Settings of `TraceJudge`; `name` and `weight` have the same meaning as for every judge of verifiers."""

    id: str = ID
    """Id of the plug-in."""
    api_key_var: str = KEY_VARIABLE
    """Environment variable with the API key of the service."""
    view: vf.JudgeView = "full_trace"
    """Part of a trace that the judge sees: every message after the task's prompt, or the last reply."""
    baseline_field: str = ""
    """Field of the task with the answer that the method `baseline` compares with."""
    input_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Price of a million prompt tokens of the judge in USD; with both prices, the trace records the cost."""
    output_price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Price of a million generated tokens of the judge in USD."""

    @model_validator(mode="after")
    def check_fields(self) -> Self:
        """Refuse settings that would have no effect."""
        for name in UNUSED_SETTINGS:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(
                    f"{name}: the judge service has its own model and prompt, so this setting has no effect; remove it"
                )
        if (self.method == "baseline") != bool(self.baseline_field):
            raise ValueError("baseline_field: must name a field of the task if method is 'baseline', else be empty")
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("input_price, output_price: set both or none")
        return self

    def build_client(self) -> JudgeClient:
        """Build the client, with the key from `api_key_var`.

        Raises:
            UsageError: a setting is invalid.
        """
        key = os.environ.get(self.api_key_var, "").strip() or None
        return JudgeClient(self.url, key, deadline_s=self.deadline_s, concurrency=self.concurrency)


class TraceJudge(vf.Judge[float, TraceJudgeConfig]):
    """Judge of traces, by a judge service.

    Example:
        >>> judge = TraceJudge(TraceJudgeConfig(url="http://10.0.0.1:8000", rubric="correctness"))
        >>> reward = await judge.score(task.data, trace)
    """

    async def score(self, task: vf.TaskData, trace: vf.Trace) -> float:
        """Score a trace, and record the call on it.

        With a `group_size`, the service collects the traces of a task from all calls.

        Args:
            task: the task's data, with `prompt` and `system_prompt`.
            trace: the rollout.

        Raises:
            UnscoredError: the judge gave no score.
            UsageError: a setting is wrong.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
        """
        (value,) = await self.score_group(task, [trace])
        return value

    async def score_group(self, task: vf.TaskData, traces: Sequence[vf.Trace]) -> list[float]:
        """Score all traces of a task in one call, and record it on each of them; see `score` for the errors."""
        rows = [self._build_row(task, trace) for trace in traces]
        view: View = "full" if self.config.view == "full_trace" else "final"
        rewards = await judge_rows(self.config.build_client(), self.config.build_spec(), rows, view)
        for trace, reward in zip(traces, rewards, strict=True):
            self._record_call(trace, reward)
        return require_values(rewards)

    def _build_row(self, task: vf.TaskData, trace: vf.Trace) -> dict[str, Any]:
        """Build the arguments of `RowConverter.build_sample`."""
        nodes = trace.branches[-1].nodes if trace.branches else []
        start = next((i for i, node in enumerate(nodes) if node.sampled), len(nodes))
        # The prompt of the task is the same in all its traces. What a harness adds to it, such as paths, is not.
        prompt = _build_prompt(task) or [_convert_message(node.message) for node in nodes[:start]]
        if not prompt:
            raise UsageError("the task has no prompt to judge by, and its trace has no message")
        response: Any = trace.last_reply
        if self.config.view == "full_trace" and start < len(nodes):
            response = [_convert_message(node.message) for node in nodes[start:]]
        names = self.config.run, trace.task.key or trace.task.hash or ""
        baseline = self.config.baseline_field
        if baseline and not hasattr(task, baseline):
            raise UsageError(f"baseline_field: the task has no field {baseline!r}")
        return {
            "prompt": prompt,
            "response": response,
            "columns": {"tools": [_convert_tool(tool) for tool in trace.tools]},
            "baseline": getattr(task, baseline) if baseline else None,
            "baseline_column": baseline or None,
            "group": " ".join(filter(None, names)) or None,
        }

    def _record_call(self, trace: vf.Trace, reward: Reward) -> None:
        """Record reasoning, statistics, tokens and cost on a trace, also if there is no score."""
        usage, config = reward.usage, self.config
        cost = None
        if config.input_price is not None and config.output_price is not None:
            prices = usage.prompt_tokens * config.input_price + usage.generated_tokens * config.output_price
            cost = prices / PRICED_TOKENS
        counts = vf.Usage(
            prompt_tokens=usage.prompt_tokens - usage.cached_tokens,
            completion_tokens=usage.generated_tokens,
            cached_input_tokens=usage.cached_tokens,
            cost=cost,
        )
        statistics = reward.to_json()
        for name in ("reasoning", "usage", "model"):
            del statistics[name]
        trace.record_judge_call(
            name=self.reward_name,
            request={"model": reward.model, "url": config.url, **asdict(config.build_spec())},
            response=vf.JudgeResponse(
                text=reward.reasoning, parsed={**statistics, "status": str(reward.status)}, usage=counts
            ),
        )
        for name in STATISTICS:
            value = getattr(reward, name)
            if value is not None:
                trace.record_metric(f"{self.reward_name}/{name}", value)
        trace.record_metric(f"{self.reward_name}/whole", float(reward.is_whole))


class JudgedGroupEnvConfig(vf.EnvConfig):
    """Settings of `JudgedGroupEnv`."""

    agent: vf.AgentConfig = vf.AgentConfig()
    """The agent that attempts the task."""
    n: int = Field(4, ge=1)
    """Number of attempts per episode."""
    # Not validated, because vf-eval builds the default before it reads the options that hold the URL.
    judge: TraceJudgeConfig = TraceJudgeConfig.model_construct()
    """The judge of the attempts."""


class JudgedGroupEnv(vf.Env[JudgedGroupEnvConfig]):
    """Environment of n attempts at a task, which the judge compares in one call.

    Each trace gets its reward under the name of the judge; it also has the rewards of its task.

    Example:
        vf-eval my-taskset --env.id flex-judge --env.n 8 --env.judge.url http://10.0.0.1:8000
            --env.judge.method round_robin --env.judge.reward win_rate
    """

    def __init__(self, config: JudgedGroupEnvConfig) -> None:
        """Create the environment; the settings of its judge must be valid."""
        super().__init__(config)
        self.judge = TraceJudge(TraceJudgeConfig.model_validate(config.judge.model_dump()))

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Run the attempts; `max_concurrent_agents` limits how many of them run at the same time."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.n):
                group.create_task(agents.agent.run(task))

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Judge all attempts that ended without an error; an attempt without a score fails the episode."""
        traces = [trace for trace in episode.traces if trace.ok]
        values = await self.judge.score_group(task.data, traces) if traces else []
        for trace, value in zip(traces, values, strict=True):
            trace.record_reward(self.judge.reward_name, value, self.judge.config.weight)


def _build_prompt(task: vf.TaskData) -> list[Any]:
    """Build the messages of a task's prompt, its system prompt first; empty if a user opens the conversation."""
    if task.prompt is None:
        return []
    system = [{"role": "system", "content": task.system_prompt}] if task.system_prompt else []
    if isinstance(task.prompt, str):
        return [*system, {"role": "user", "content": task.prompt}]
    return [*system, *(_convert_message(message) for message in task.prompt)]


def _convert_message(message: vf.Message) -> dict[str, Any]:
    """Convert a message to fields that the conversation reader knows."""
    row: dict[str, Any] = message.model_dump(exclude_none=True, exclude={"provider_state"})
    if row["role"] == "assistant":
        row.setdefault("content", "")
    for call in row.get("tool_calls", ()):
        call["name"] = _join_namespace(call)
    return row


def _convert_tool(tool: vf.Tool) -> dict[str, Any]:
    """Convert the definition of a tool to OpenAI's form."""
    row: dict[str, Any] = tool.model_dump(exclude_none=True)
    kind = row.pop("type")
    return {"type": kind, kind: {**row, "name": _join_namespace(row)}}


def _join_namespace(row: dict[str, Any]) -> str:
    namespace = row.pop("namespace", None)
    return f"{namespace}.{row['name']}" if namespace else str(row["name"])
