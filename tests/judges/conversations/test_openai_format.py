"""Messages in OpenAI's format and in the format of chat templates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clips import noise, picture

from flex_judge.judges import Message
from flex_judge.judges.conversations.messages import ToolCall, Trajectory
from flex_judge.judges.conversations.openai import (
    definition_to_openai,
    describe_medium,
    fill_call_ids,
    message_to_openai,
    message_to_template,
    normalise_trajectory,
    number_call_ids,
    parse_arguments,
    response_to_openai,
    split_tools,
)
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.media.opening import make_image, open_local_media

CALL = ToolCall("get_weather", '{"city": "Rome"}', "call_7")
MESSAGES = (
    Message("system", "Be brief.", tools=('{"type": "function", "function": {"name": "get_weather"}}',)),
    Message("user", "Weather?", name="ann"),
    Message("assistant", tool_calls=(CALL, ToolCall("now")), reasoning="I need the weather."),
    Message("tool", "21C", name="get_weather", tool_call_id="call_7"),
    Message("assistant", "It is 21."),
)


def test_plain_message_has_role_and_content_only() -> None:
    assert json.dumps(message_to_openai(Message("user", "Hi"), describe_medium)) == '{"role": "user", "content": "Hi"}'
    assert message_to_template(Message("user", "Hi"), "Hi") == {"role": "user", "content": "Hi"}


def test_messages_are_read_back_unchanged() -> None:
    rows = json.loads(json.dumps([message_to_openai(message, describe_medium) for message in MESSAGES]))
    assert rows[2]["content"] is None
    assert rows[2]["tool_calls"][0] == {
        "id": "call_7",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    assert ConversationReader(open_local_media).read_prompt(rows) == MESSAGES


@pytest.mark.parametrize("response", ["It is 5.", "", Trajectory(MESSAGES[2:]), Trajectory(MESSAGES[2:3])])
def test_responses_are_read_back_unchanged(response: Any) -> None:
    stored = json.loads(json.dumps(response_to_openai(response, describe_medium)))
    assert ConversationReader(open_local_media).read_response(stored) == response


def test_media_are_written_by_the_caller() -> None:
    image = make_image(picture(noise(8, 8)))
    row = message_to_openai(Message("user", ("Look:", image)), lambda medium: {"type": "image", "image": medium.name})
    assert row["content"] == [{"type": "text", "text": "Look:"}, {"type": "image", "image": image.name}]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("", {}),
        ("city = Rome", "city = Rome"),
        ("[1]", "[1]"),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),  # an object keeps one of them only
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1e999}', '{"a": 1e999}'),
        ('{"a": ' + "[" * 99 + "]" * 99 + "}", '{"a": ' + "[" * 99 + "]" * 99 + "}"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_become_objects_only_if_nothing_is_lost(text: str, parsed: Any) -> None:
    assert parse_arguments(text) == parsed


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        ('{"type": "function", "function": {"name": "f"}}', "f"),
        ('{"function": {"name": "f"}}', "f"),
        ('{"name": "f", "parameters": {}}', "f"),
        ('{"name": "f", "input_schema": {"type": "object"}}', "f"),
        ("f", "f"),
    ],
)
def test_definitions_have_the_form_of_functions(definition: str, name: str) -> None:
    assert definition_to_openai(definition)["function"]["name"] == name
    assert definition_to_openai('{"name": "f", "input_schema": 1}')["function"] == {"name": "f", "parameters": 1}


def test_system_message_with_definitions_only_is_left_out() -> None:
    messages, tools = split_tools((Message("system", tools=("f",)), Message("user", "Hi")))
    assert messages == (Message("user", "Hi"),)
    assert tools == ({"type": "function", "function": {"name": "f"}},)
    assert split_tools(MESSAGES)[0][0] == Message("system", "Be brief.")
    assert split_tools((Message("system", ""), Message("user", "Hi")))[0] == (
        Message("system", ""),
        Message("user", "Hi"),
    )


def test_calls_and_results_without_ids_are_matched_by_name_and_order() -> None:
    messages = (
        Message("assistant", tool_calls=(ToolCall("a"), ToolCall("b"), ToolCall("a", id="call_1"))),
        Message("tool", "B", name="b"),
        Message("tool", "A"),
        Message("tool", "A again", tool_call_id="call_1"),
        Message("tool", "nobody asked"),
    )
    filled = fill_call_ids(messages)
    ids = [call.id for call in filled[0].tool_calls]
    assert len(set(ids)) == 3
    assert ids[2] == "call_1"
    assert [message.tool_call_id for message in filled[1:]] == [ids[1], ids[0], "call_1", ""]


def test_trajectories_that_differ_in_ids_and_layout_only_are_equal() -> None:
    def make(call_id: str, arguments: str, content: str) -> Trajectory:
        call = ToolCall("f", arguments, call_id)
        return Trajectory(
            (Message("assistant", content, tool_calls=(call,)), Message("tool", "1", tool_call_id=call_id))
        )

    first, second = make("x1", '{"a":1,"b":2}', "Look "), make("y", '{"b": 2, "a": 1}', "Look")
    assert normalise_trajectory(first) == normalise_trajectory(second)
    assert normalise_trajectory(first) != normalise_trajectory(make("y", '{"b": 2, "a": 3}', "Look"))
    assert number_call_ids(first).messages[1].tool_call_id == number_call_ids(first).messages[0].tool_calls[0].id
    doubled = Trajectory((Message("assistant", tool_calls=(ToolCall("f", id="x"),) * 3),))
    assert [call.id for call in number_call_ids(doubled).messages[0].tool_calls] == ["call_0", "call_1", "call_2"]
