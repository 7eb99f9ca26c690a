"""Data runs with tools: prompts with calls and definitions, and policies that answer with tool calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row
from flex_judge.alignment.data.rows import PromptRow, read_final_text, read_response
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan, BestOfNWork
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.preferences import PreferencePlan, PreferenceWork
from flex_judge.alignment.policies import Completion, PolicyConfig
from flex_judge.alignment.policy_training.evaluation import measure_row
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.judges import Comparison, EngineConfig, JudgeConfig, Message
from flex_judge.judges.conversations.messages import ToolCall, Trajectory
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.engines import Sampling
from flex_judge.judges.judgments import Judgment, Status, Verdict
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.types import Response

SAMPLING = Sampling(64, temperature=0.8, seed=0)
MODELS = LocalModels(
    PolicyConfig("scripts:drawn_policy", "scripted"), JudgeConfig(EngineConfig("scripts:fair_judge", "scripted"))
)
ROW: dict[str, Any] = {
    "id": "q",
    "prompt": [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "get", "arguments": "{}"}}]},
        {"role": "tool", "content": "21C"},
    ],
    "tools": [{"type": "function", "function": {"name": "get"}}],
}


def make_answer(number: int, call_id: str) -> Response:
    call = ToolCall("send", json.dumps({"number": number}), call_id)
    return Trajectory((Message("assistant", f"It is {number}.", tool_calls=(call,)),))


class ToolPolicy:
    """Policy that answers with tool calls, and once with text."""

    model_id = "tools@1"

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        answers = [make_answer(21, "a"), make_answer(20, "b"), "It is 5.", make_answer(21, "c")]
        return [Completion(answers[i % 4], 5, False, "tools are text") for i in sample_indices]

    async def check_health(self) -> None:
        pass

    def close(self) -> None:
        pass


async def judge_by_number(comparison: Comparison) -> Judgment:
    """Score 5 for a call with 21, else 2; the judge gets the trajectory itself."""
    (response,) = comparison.responses
    is_right = isinstance(response, Trajectory) and "21" in response.messages[0].tool_calls[0].arguments
    assert [message.role for message in comparison.prompt] == ["system", "user", "assistant", "tool"]
    scores = (5.0 if is_right else 2.0,)
    vote = Verdict(Status.OK, scores, order=(0,))
    return Judgment(comparison.id, Status.OK, scores, None, "", votes=(vote,))


def read_row(row: dict[str, Any] = ROW) -> PromptRow:
    return parse_prompt_row(row, "prompts.jsonl, row 1", 1, PromptColumns(), Path())


def test_best_of_n_stores_trajectories_that_are_read_back() -> None:
    work = BestOfNWork(BestOfNPlan(MODELS, SAMPLING, 4, SelectionSpec()), ToolPolicy(), judge_by_number)
    (row,) = json.loads(json.dumps(asyncio.run(work(read_row())).tables))["best_of_n"]
    assert row["scores"] == [5.0, 2.0, 2.0, 5.0]
    assert row["responses"][2] == "It is 5."
    assert read_response(row["responses"][0]) == make_answer(21, "a")
    assert [read_final_text(response) for response in row["responses"][:3]] == ["It is 21.", "It is 20.", "It is 5."]
    assert 'send({"number": 21})' in row["text"]
    assert row["tools"] == ROW["tools"]
    assert row["note"] == "tools are text"
    # The row of the results is a row of input again.
    assert ConversationReader(open_local_media).read_prompt(row["prompt"], tools=row["tools"]) == read_row().prompt
    row["kept"] = {"answer": 21.0}
    assert measure_row(row, "answer").right == 0.5


def test_preferences_pair_different_calls_and_not_equal_ones() -> None:
    plan = PreferencePlan(MODELS, SAMPLING, 4, "general", rule=RuleSpec("all_pairs"))
    result = asyncio.run(PreferenceWork(plan, ToolPolicy(), judge_by_number)(read_row()))
    rows = json.loads(json.dumps(result.tables["preferences"]))
    chosen = {row["chosen"][0]["tool_calls"][0]["function"]["arguments"]["number"] for row in rows}
    assert chosen == {21}
    assert len(rows) == 2  # the second call with 21 differs in its id only
    assert all(json.loads(row["tools"]) == ROW["tools"] for row in rows)
    (completions,) = result.tables["completions"]
    assert read_response(completions["responses"][1]) == make_answer(20, "b")
    assert result.stats is not None
    counts = result.stats.to_json()
    assert (counts["tool_pairs"], counts["notes"]) == (2, {"tools are text": 1})


def test_run_of_a_policy_without_tools_says_so_in_each_row() -> None:
    work = asyncio.run(BestOfNPlan(MODELS, SAMPLING, 2, SelectionSpec()).open())
    (row,) = asyncio.run(work(read_row())).tables["best_of_n"]
    assert "tools, their calls and results are written as text" in row["note"]
    (row,) = asyncio.run(work(read_row({"id": "q", "prompt": "What is 2 + 3?"}))).tables["best_of_n"]
    assert not {"note", "tools"} & set(row)


@pytest.mark.parametrize("value", ["It is 5.", ""])
def test_stored_texts_of_older_runs_are_read_unchanged(value: str) -> None:
    assert read_response(value) == read_final_text(value) == value
