"""Values of data sets and SDKs that are empty cells, enums, or raise errors when they are read."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.paths import make_placeholder
from flex_judge.judges.types import Comparison, Message, ToolCall, Trajectory
from flex_judge.reward.integrations.rows import RowConverter

NAN = float("nan")
EMPTY_CELLS = [NAN, np.float64("nan"), np.float32("nan"), np.datetime64("NaT")]


class Role(enum.StrEnum):
    USER = "user"


class LazyMessage:
    def model_dump(self) -> Any:
        raise RuntimeError("connection lost\nat line 5")


def nest(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("empty", EMPTY_CELLS, ids=lambda value: type(value).__name__)
def test_empty_cells_of_tables_are_missing(empty: Any) -> None:
    message = {
        "role": "assistant",
        "content": "5",
        **dict.fromkeys(["name", "tool_calls", "function_call", "tool_call_id", "reasoning_content", "tools"], empty),
    }
    comparison = Comparison.of("Q", [message], images=[empty], tools=empty)
    assert comparison.prompt == (Message("user", "Q"),)
    assert comparison.responses == ("5",)


def test_empty_cells_of_pandas_are_missing() -> None:
    pandas = pytest.importorskip("pandas")
    row = {"images": NAN, "image": pandas.NA, "video": pandas.NaT, "tools": NAN}
    sample = RowConverter().build_sample("Q", [{"role": "assistant", "content": "a", "name": pandas.NA}], row)
    assert (sample.prompt, sample.response) == ((Message("user", "Q"),), "a")


def test_calls_beside_empty_cells_are_shown() -> None:
    call = {"id": NAN, "function": {"name": "f", "arguments": {"x": NAN}}}
    (response,) = Comparison.of("Q", {"role": "assistant", "content": NAN, "tool_calls": [call]}).responses
    assert response == Trajectory((Message("assistant", tool_calls=(ToolCall("f", '{"x": "nan"}'),)),))


def test_members_of_enums_are_their_value() -> None:
    comparison = Comparison.of([{"role": Role.USER, "content": Role.USER}], "a")
    assert type(comparison.prompt[0].role) is type(comparison.prompt[0].content) is str


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        ([{"role": "assistant", "content": 10**5000}], "got a value of type int"),
        ([{"role": "assistant", "content": [{"type": np.zeros(3), "text": "a"}]}], "cannot be read: The truth value"),
        ([{"role": "assistant", "content": LazyMessage()}], "cannot be read: connection lost"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": nest(5000)}]}], "nested too deeply"),
    ],
)
def test_values_that_raise_errors_cost_their_row_only(response: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        Comparison.of("Q", response)
    assert error.value.field.startswith("response")
    rows = [{"prompt": "Q", "response": "a"}, {"prompt": response, "response": "a"}, {"prompt": "Q", "response": "b"}]
    converted = RowConverter().convert_rows(rows)
    assert (len(converted.samples), list(converted.problems)) == (2, [1])


def test_columns_that_raise_errors_cost_their_row_only() -> None:
    rows = [{"prompt": "Q", "response": "a", "columns": {"images": LazyMessage()}}, {"prompt": "Q", "response": "b"}]
    assert list(RowConverter().convert_rows(rows).problems) == [0]


@pytest.mark.parametrize("fields", [{"result": "22"}, {"function": {"name": "f", "arguments": "{}", "result": "22"}}])
def test_unknown_fields_of_calls_are_reported(fields: dict[str, Any]) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}, **fields}
    with pytest.raises(UsageError, match="result: unknown field"):
        ConversationReader(open_local_media, strict=True).read_response({"role": "assistant", "tool_calls": [call]})


def test_a_call_in_the_newer_and_the_older_form_is_one_call() -> None:
    call = {"name": "f", "arguments": "{}"}
    message = {"role": "assistant", "tool_calls": [{"id": "1", "function": call}], "function_call": call}
    (response,) = Comparison.of("Q", message).responses
    assert response == Trajectory((Message("assistant", tool_calls=(ToolCall("f", "{}", "1"),)),))


def test_tools_that_are_null_as_json_text_are_none() -> None:
    assert Comparison.of("Q", "a", tools="null").prompt == (Message("user", "Q"),)


def test_a_part_with_two_different_media_is_reported() -> None:
    part = {"type": "image", "image": "a.png", "image_url": "b.png"}
    with pytest.raises(UsageError, match="image_url: unknown field"):
        ConversationReader(make_placeholder, strict=True).read_prompt([{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": {"path": "PATH"}},
        {"type": "image", "image": {"path": "PATH", "bytes": None}},
        {"type": "image", "path": "PATH"},
        {"type": "video", "video": ["PATH"], "fps": 1},
        {"type": "video", "video": [{"path": "PATH"}], "fps": 1},
        {"type": "video", "video": {"frames": ["PATH"], "fps": 1}},
    ],
)
def test_no_form_of_a_path_in_a_response_of_a_policy_is_opened(part: Any, tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(path)

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(item) for name, item in value.items()}
        return [fill(item) for item in value] if isinstance(value, list) else str(path) if value == "PATH" else value

    sample = RowConverter().build_sample("Q", [{"role": "assistant", "content": [fill(part)]}])
    assert "expected a data URI" in sample.problem
