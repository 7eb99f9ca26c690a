"""The judge as a resources server of NeMo-Gym (0.4): `verify` asks a judge service for the reward of a rollout.

NeMo-Gym starts a server from a folder of the user, `resources_servers/flex_judge`, with this `app.py`:

    from flex_judge.reward.nemo_gym import JudgeResourcesServer

    if __name__ == "__main__":
        JudgeResourcesServer.run_webserver()

A rollout without a score gets the failure class `judge_failed`, so NeMo-Gym writes it to the file of failures:
it is no part of the results and their metrics, and a resumed run tries it again, up to the limit of NeMo-Gym.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)
from nemo_gym.config_types import AggregateMetrics, AggregateMetricsRequest
from nemo_gym.global_config import TASK_INDEX_KEY_NAME
from pydantic import ConfigDict, model_validator

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS, TOOLS_COLUMN
from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import ServiceUnavailableError
from flex_judge.judges.judgments import Status
from flex_judge.reward.integrations.service import ServiceSettings, judge_rows, require_values
from flex_judge.reward.types import Reward

FAILURE_CLASS = "judge_failed"
# Named in nemo_gym.rollout_collection too, which loads clients of experiment trackers.
FAILURE_CLASS_KEY = "_ng_failure_class"
TERMINAL_KEY = "_ng_failure_terminal"
PLACEHOLDER = 0.0
"""Reward of a failure row: NeMo-Gym requires a number there, and excludes the row by its failure class."""

__all__ = ["JudgeResourcesServer", "JudgeResourcesServerConfig"]


class JudgeResourcesServerConfig(ServiceSettings, BaseResourcesServerConfig):
    """Settings of the server in NeMo-Gym's YAML file."""

    name: str = "flex_judge"
    """Name of the server instance; NeMo-Gym sets it."""
    view: View = "full"
    """Part of a rollout that the judge sees: every message with tool calls and their results, or the final answer."""
    baseline_field: str = ""
    """Field of the row with the answer that the method `baseline` compares with."""
    unscored: Literal["failure", "error"] = "failure"
    """Result of a rollout without a score: a row with the failure class `judge_failed`, or an HTTP error, which ends
    the collection of rollouts."""

    @model_validator(mode="after")
    def check_fields(self) -> JudgeResourcesServerConfig:
        """Check that the method and the field of its baseline fit together."""
        if (self.method == "baseline") != bool(self.baseline_field):
            raise ValueError("baseline_field: must name a field of the row if method is 'baseline', else be empty")
        return self


class JudgeVerifyRequest(BaseVerifyRequest):
    """Request of `/verify`: the rollout, and all other fields of its row."""

    model_config = ConfigDict(extra="allow")


class JudgeVerifyResponse(BaseVerifyResponse):
    """Answer of `/verify`: the request, the reward, and how it came about."""

    model_config = ConfigDict(extra="allow")

    judge_status: str
    """Status of the judgment."""
    judge_score: float | None = None
    """Mean of the scores that the judge wrote."""
    judge_expected: float | None = None
    """Mean of the expected scores."""
    judge_whole: float
    """1 if the rollout was judged in time and in a complete group, else 0."""
    judge_tokens: int
    """Tokens that the judge generated."""
    judge_reasoning: str
    """Reasoning of the judge; without a score, the reason."""


class JudgeResourcesServer(SimpleResourcesServer):
    """Resources server whose rewards come from a judge service."""

    config: JudgeResourcesServerConfig

    async def verify(self, body: JudgeVerifyRequest) -> JudgeVerifyResponse:
        """Judge a rollout.

        The judge sees the input, instructions and tools of the request as the prompt, and the output as the response:
        reasoning, messages, tool calls and their results. Rows may have the columns `images`, `videos`, `audios` and
        `molecules`.

        Raises:
            UsageError: a setting is wrong.
            UnscoredError: the rollout has no score, and `unscored` is "error".
        """
        config = self.config
        fields = body.model_extra or {}
        tools = [tool if isinstance(tool, dict) else tool.model_dump() for tool in body.responses_create_params.tools]
        media = {name: fields[name] for name in PROMPT_COLUMNS if fields.get(name) is not None}
        row = {
            "prompt": _build_prompt(body),
            "response": list(_convert_items([item.model_dump() for item in body.response.output])),
            "columns": {TOOLS_COLUMN: tools, **media},
            "baseline": fields.get(config.baseline_field) if config.baseline_field else None,
            "baseline_column": config.baseline_field or None,
            "group": f"{config.run} {fields.get(TASK_INDEX_KEY_NAME, '')}".strip() or None,
        }
        try:
            (reward,) = await judge_rows(config.build_client(), config.build_spec(), [row], config.view)
        except ServiceUnavailableError as e:
            reward = Reward(None, Status.TIMEOUT, detail=str(e))
        if config.unscored == "error":
            require_values([reward])
        return JudgeVerifyResponse(**body.model_dump(), **_build_result(reward))

    async def aggregate_metrics(self, body: AggregateMetricsRequest) -> AggregateMetrics:
        """Compute metrics of the scored rollouts; NeMo-Gym passes failures too, as if they had the reward 0."""
        scored = [row for row in body.verify_responses if FAILURE_CLASS_KEY not in row]
        return await super().aggregate_metrics(AggregateMetricsRequest(verify_responses=scored))


def _build_result(reward: Reward) -> dict[str, Any]:
    """Build the fields of the answer; without a value, those that mark a failure."""
    failure: dict[str, Any] = {}
    if reward.value is None:
        failure[FAILURE_CLASS_KEY] = FAILURE_CLASS
        if reward.status.is_final:  # the same row would fail again
            failure[TERMINAL_KEY] = True
    return {
        **failure,
        "reward": PLACEHOLDER if reward.value is None else reward.value,
        "judge_status": str(reward.status),
        "judge_score": reward.score,
        "judge_expected": reward.expected,
        "judge_whole": float(reward.is_whole),
        "judge_tokens": reward.usage.generated_tokens,
        "judge_reasoning": reward.reasoning or reward.detail,
    }


def _build_prompt(body: JudgeVerifyRequest) -> list[dict[str, Any]]:
    """Build the messages of the prompt, which starts with the instructions."""
    params = body.responses_create_params
    system = [{"role": "system", "content": params.instructions}] if params.instructions else []
    if isinstance(params.input, str):
        return [*system, {"role": "user", "content": params.input}]
    items = [item if isinstance(item, dict) else item.model_dump() for item in params.input]
    return [*system, *_convert_items(items)]


def _convert_items(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Convert items of OpenAI's Responses API to messages of a chat.

    Reasoning, text and calls of one turn of the model are one message.
    """
    turn: dict[str, Any] = {}
    for item in items:
        kind, is_assistant = item.get("type") or "message", item.get("role") == "assistant"
        if kind in ("reasoning", "function_call") or is_assistant:
            # Text or reasoning after a call, or after another text, belongs to the next message.
            if turn and (kind == "reasoning" or is_assistant) and (turn.get("tool_calls") or turn.get("content")):
                yield turn
                turn = {}
            turn = turn or {"role": "assistant", "content": ""}
            if kind == "reasoning":
                texts = [part["text"] for part in (*(item.get("summary") or ()), *(item.get("content") or ()))]
                turn["reasoning_content"] = "\n\n".join(texts)
            elif kind == "function_call":
                call = {"name": item["name"], "arguments": item["arguments"]}
                calls = turn.setdefault("tool_calls", [])
                calls.append({"id": item["call_id"], "type": "function", "function": call})
            else:
                turn["content"] = item["content"]
            continue
        if turn:
            yield turn
            turn = {}
        if kind == "function_call_output":
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        else:
            yield {"role": item.get("role", kind), "content": item.get("content")}
    if turn:
        yield turn
