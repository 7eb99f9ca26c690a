"""Arbitrary rows through every entrance: one result or one typed error per row, never a traceback or invalid JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripts import SETTINGS, score_five
from strict_json import parse_strictly
from web import client

from flex_judge.experiments.cli import main
from flex_judge.judges import Comparison, FlexJudge, UsageError
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.trl import JudgeReward

FIELDS = (
    *("role", "content", "type", "text", "image", "image_url", "url", "images", "video", "videos", "audio", "audios"),
    *("input_audio", "data", "tools", "tool_calls", "function", "function_call", "name", "arguments", "tool_call_id"),
    *("reasoning_content", "prompt", "responses", "response", "id", "rubric", "view", "bytes", "path", "frames", "fps"),
    *("molecule", "molecules", "smiles"),
)
VALUES = (
    *("user", "assistant", "tool", "system", "text", "image", "image_url", "video", "audio", "input_audio", "molecule"),
    *("function", "general", "full", "final", "<image>", "<video>", "data:image/png;base64,AAAA", "[{}", "\ud83d"),
    "https://example.com/a.png",
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(VALUES)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=10,
)
parts = st.fixed_dictionaries({"type": st.sampled_from(VALUES)}, optional=dict.fromkeys(FIELDS[3:14], leaves))
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]) | values, "content": st.lists(parts, max_size=2) | values},
    optional={"tool_calls": values, "name": values, "reasoning_content": values, "tools": values},
)
contents = st.text(max_size=8) | st.lists(messages, max_size=3) | values
rows = st.fixed_dictionaries(
    {"prompt": contents, "responses": st.lists(contents, max_size=2) | values},
    optional=dict.fromkeys(("images", "image", "videos", "audios", "tools", "view", "id", "rubric", "mood"), values),
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def judge() -> FlexJudge:
    return FlexJudge(ScriptedEngine(score_five, profile=PROFILES["flex-omni"]), SETTINGS)


def post_body(judge: FlexJudge, path: str, body: bytes) -> httpx.Response:
    async def post() -> httpx.Response:
        async with client(Gateway(judge.ajudge)) as http:
            return await http.post(path, content=body, headers={"Content-Type": "application/json"})

    return asyncio.run(post())


@QUICK
@given(row=rows)
def test_a_row_is_a_comparison_or_a_usage_error(row: dict[str, Any]) -> None:
    responses = row["responses"] if isinstance(row["responses"], list) else [row["responses"]]
    columns = {name: row[name] for name in ("tools", "view") if name in row}
    with contextlib.suppress(UsageError):
        Comparison.of(row["prompt"], *responses, **columns)


@QUICK
@given(
    batch=st.lists(
        st.tuples(contents, contents, st.dictionaries(st.sampled_from(["images", "tools"]), values)), max_size=3
    )
)
def test_a_batch_of_a_trainer_gets_one_result_per_row(batch: list[tuple[Any, Any, dict[str, Any]]]) -> None:
    converted = RowConverter().convert_rows({"prompt": p, "response": r, "columns": c} for p, r, c in batch)
    assert len(converted.samples) + len(converted.problems) == len(batch)
    assert all(converted.problems.values())


@QUICK
@given(prompts=st.lists(contents, min_size=1, max_size=3), images=values)
def test_a_reward_function_returns_a_number_or_none(prompts: list[Any], images: Any, judge: FlexJudge) -> None:
    rewards = JudgeReward(judge)(prompts=prompts, completions=["a"] * len(prompts), images=[images] * len(prompts))
    assert all(reward is None or isinstance(reward, float) for reward in rewards)


@QUICK
@given(batch=st.lists(rows, min_size=1, max_size=3))
def test_a_request_gets_one_result_per_row(batch: list[dict[str, Any]], judge: FlexJudge) -> None:
    response = post_body(judge, "/v1/judge", json.dumps({"comparisons": batch}, default=str).encode())
    body = parse_strictly(response.content)
    if response.status_code == 200:
        assert len(body["judgments"]) == len(batch)
    else:  # NaN and infinities are no JSON: the request as a whole is refused
        assert response.status_code == 422
        assert "NaN" in json.dumps(batch) or "Infinity" in json.dumps(batch), body


@QUICK
@given(body=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("path", ["/v1/judge", "/v1/rewards", "/get_reward", "/rm"])
def test_any_body_gets_a_json_answer(body: bytes, path: str, judge: FlexJudge) -> None:
    response = post_body(judge, path, body)
    assert response.status_code in (200, 400, 413, 422)
    parse_strictly(response.content)


@settings(QUICK, max_examples=25)
@given(batch=st.lists(rows, min_size=1, max_size=4))
def test_no_row_of_a_file_is_lost(batch: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    path, out = folder / "rows.jsonl", folder / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in batch), encoding="utf-8")
    arguments = ["judge", str(path), "--engine", "scripted", "--model", "scripts:score_five", "--out", str(out)]
    status = main([*arguments, "--max-think-tokens", "64"])
    assert status in (0, 1, 2)
    if status != 2:
        judgments = [parse_strictly(line) for line in out.read_bytes().splitlines()]
        assert len(judgments) == len(batch)
        assert len({judgment["id"] for judgment in judgments}) == len(batch)
