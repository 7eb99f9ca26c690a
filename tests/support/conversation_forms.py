"""Forms of prompts and responses that users have, as JSON rows, with what the judge must be shown of each."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from clips import encode_uri, film, noise, picture, tone, wav

Json = dict[str, Any]


RED, BLUE = (picture(noise(28, 28 + 28 * i)) for i in range(2))
CLIP, SOUND = film(range(0, 100, 20)), wav(tone(0.1))


@dataclass(frozen=True)
class Form:
    """A row in one form."""

    prompt: Any
    response: Any = "It is 21 degrees."
    columns: Json = field(default_factory=dict)
    """Other columns of the row."""
    shown: tuple[str, ...] = ()
    """Texts that the judge must be shown, in this order."""
    hidden: tuple[str, ...] = ()
    """Texts that the judge must not be shown."""
    media: int = 0
    """Number of media that the judge must be shown."""


QUESTION = {"role": "user", "content": "Weather in Rome?"}
ARGUMENTS = {"city": "Rome"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "21C"}
ANSWER = {"role": "assistant", "content": "It is 21 degrees."}
SHOWN_CALL = ("get_weather", '{"city": "Rome"}')
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Look up the weather."}}


def make_calling(**fields: Any) -> Json:
    return {"role": "assistant", "content": None, **fields}


def ask_about(*parts: Any) -> list[Json]:
    return [{"role": "user", "content": list(parts)}]


TEXT = {"type": "text", "text": "What is it?"}

FORMS: dict[str, Form] = {
    "text": Form("Weather in Rome?", shown=("Weather in Rome?", "It is 21 degrees.")),
    "messages": Form([{"role": "system", "content": "Be brief."}, QUESTION], [ANSWER], shown=("Be brief.", "Rome?")),
    "text parts": Form(ask_about(TEXT, {"type": "text", "text": " Be brief."}), shown=("What is it? Be brief.",)),
    "parts of the responses API": Form(
        ask_about({"type": "input_text", "text": "What is it?"}),
        [{"role": "assistant", "content": [{"type": "output_text", "text": "A cat.", "annotations": []}]}],
        shown=("What is it?", "A cat."),
    ),
    "null fields of a table": Form(
        [QUESTION | {"name": None, "tool_calls": None, "tool_call_id": None}],
        [ANSWER | {"tool_calls": None, "reasoning_content": None, "refusal": None}],
        shown=("Weather in Rome?", "It is 21 degrees."),
    ),
    "tool calls": Form(
        [QUESTION], [make_calling(tool_calls=[CALL]), RESULT, ANSWER], shown=(*SHOWN_CALL, "21C", "It is 21 degrees.")
    ),
    "tool calls in the prompt": Form(
        [QUESTION, make_calling(tool_calls=[CALL]), RESULT], shown=("Rome?", *SHOWN_CALL, "21C", "It is 21 degrees.")
    ),
    "tool calls and empty text": Form(
        [QUESTION], [make_calling(tool_calls=[CALL], content="")], shown=("Rome?", *SHOWN_CALL)
    ),
    "tool calls with arguments as an object": Form(
        [QUESTION],
        [make_calling(tool_calls=[{"function": {"name": "get_weather", "arguments": ARGUMENTS}}]), RESULT],
        shown=(*SHOWN_CALL, "21C"),
    ),
    "flat tool calls": Form(
        [QUESTION], [make_calling(tool_calls=[{"name": "get_weather", "arguments": ARGUMENTS}])], shown=SHOWN_CALL
    ),
    "one tool call": Form([QUESTION], [make_calling(tool_calls=CALL)], shown=SHOWN_CALL),
    "tool calls as text": Form([QUESTION], [make_calling(tool_calls=json.dumps([CALL]))], shown=SHOWN_CALL),
    "a function call": Form(
        [QUESTION],
        [
            make_calling(function_call={"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}),
            {"role": "function", "name": "get_weather", "content": "21C"},
            ANSWER,
        ],
        shown=(*SHOWN_CALL, "21C", "It is 21 degrees."),
    ),
    "reasoning": Form(
        [QUESTION], [ANSWER | {"reasoning_content": "I recall it."}], shown=("I recall it.", "It is 21 degrees.")
    ),
    "reasoning as a part": Form(
        [QUESTION],
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": "I recall it."}, TEXT]}],
        shown=("I recall it.", "What is it?"),
    ),
    "a refusal": Form(
        [QUESTION], [{"role": "assistant", "content": None, "refusal": "I cannot help."}], shown=("I cannot help.",)
    ),
    "names": Form([QUESTION | {"name": "ana"}], [ANSWER], shown=("ana", "Weather in Rome?")),
    "turns of a user": Form(
        [QUESTION],
        [ANSWER | {"content": "3?"}, {"role": "user", "content": "higher"}, ANSWER | {"content": "5?"}],
        shown=("assistant", "3?", "user", "higher", "assistant", "5?"),
    ),
    "the final answer": Form(
        [QUESTION],
        [make_calling(tool_calls=[CALL]), RESULT, ANSWER],
        {"view": "final"},
        shown=("Rome?", "It is 21 degrees."),
        hidden=("get_weather", "21C"),
    ),
    "tools": Form([QUESTION], columns={"tools": [TOOL]}, shown=("Look up the weather.", "Rome?")),
    "tools as text": Form([QUESTION], columns={"tools": json.dumps([TOOL])}, shown=("Look up the weather.", "Rome?")),
    "an image part": Form(
        ask_about({"type": "image", "image": encode_uri(RED)}, TEXT), shown=("What is it?",), media=1
    ),
    "an image URL": Form(
        ask_about(TEXT, {"type": "image_url", "image_url": {"url": encode_uri(RED), "detail": "low"}}),
        shown=("What is it?",),
        media=1,
    ),
    "an image URL as text": Form(ask_about(TEXT, {"type": "image_url", "image_url": encode_uri(RED)}), media=1),
    "an input image": Form(ask_about({"type": "input_image", "image_url": encode_uri(RED)}, TEXT), media=1),
    "input audio": Form(
        ask_about(
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}}, TEXT
        ),
        media=1,
    ),
    "an audio URL": Form(ask_about({"type": "audio_url", "audio_url": {"url": encode_uri(SOUND)}}, TEXT), media=1),
    "a video part": Form(ask_about({"type": "video", "video": encode_uri(CLIP)}, TEXT), media=1),
    "a video URL": Form(ask_about({"type": "video_url", "video_url": {"url": encode_uri(CLIP)}}, TEXT), media=1),
    "unused fields of parts": Form(
        ask_about({"type": "image", "text": "", "image": encode_uri(RED)}, TEXT | {"image": None}), media=1
    ),
    "images": Form("What is it?", columns={"images": [encode_uri(RED), encode_uri(BLUE)]}, media=2),
    "an image": Form("What is it?", columns={"image": encode_uri(RED)}, media=1),
    "an image, and images null": Form("What is it?", columns={"images": None, "image": encode_uri(RED)}, media=1),
    "images with null": Form("What is it?", columns={"images": [encode_uri(RED), None]}, media=1),
    "one image in images": Form("What is it?", columns={"images": encode_uri(RED)}, media=1),
    "videos": Form("What is it?", columns={"videos": [encode_uri(CLIP)]}, media=1),
    "a video": Form("What is it?", columns={"video": encode_uri(CLIP)}, media=1),
    "audios": Form("What is it?", columns={"audios": [encode_uri(SOUND)]}, media=1),
    "an audio": Form("What is it?", columns={"audio": encode_uri(SOUND)}, media=1),
    "image parts without an image": Form(
        ask_about({"type": "image"}, TEXT, {"type": "image"}),
        columns={"images": [encode_uri(RED), encode_uri(BLUE)]},
        media=2,
    ),
    "image marks": Form(
        "First <image> then <image>: same?",
        columns={"images": [encode_uri(RED), encode_uri(BLUE)]},
        shown=("First ", " then ", ": same?"),
        hidden=("<image>",),
        media=2,
    ),
    "image marks in messages": Form(
        [{"role": "user", "content": "<image>\nWhat is it?"}],
        columns={"images": [encode_uri(RED)]},
        hidden=("<image>",),
        media=1,
    ),
    "marks of all kinds": Form(
        "<video>What happens, <image> here, <audio> there?",
        columns={"videos": [encode_uri(CLIP)], "images": [encode_uri(RED)], "audios": [encode_uri(SOUND)]},
        hidden=("<video>", "<image>", "<audio>"),
        media=3,
    ),
    "a mark without media": Form("Explain the tag <video>.", shown=("the tag <video>.",)),
    "the same image in both places": Form(
        ask_about({"type": "image", "image": encode_uri(RED)}, TEXT), columns={"images": [encode_uri(RED)]}, media=1
    ),
    "an image in the response": Form(
        "Draw it.", [{"role": "assistant", "content": [{"type": "image", "image": encode_uri(RED)}]}], media=1
    ),
}
"""Name of a form -> the row."""
