"""Parsing of data set rows into prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row, read_prompts
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.judges import Message
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media


def parse_row(data: dict[str, Any], *mapping: str, folder: Path = Path(), **columns: Any) -> PromptRow:
    return parse_prompt_row(data, "p.jsonl, line 7", 7, PromptColumns.from_arguments(mapping, **columns), folder)


def test_text_prompt_becomes_a_user_message_with_the_row_number_as_id() -> None:
    assert parse_row({"prompt": "Why?", "other": 1}) == PromptRow(
        "7", (Message("user", "Why?"),), {}, "p.jsonl, line 7"
    )


def test_column_mapping_renames_columns() -> None:
    parsed = parse_row({"question": "Why?", "uid": 12, "answer": 3}, "prompt=question", "id=uid", keep=["answer"])
    assert (parsed.id, parsed.prompt[0].content, parsed.kept) == ("12", "Why?", {"answer": 3})


def test_trailing_assistant_messages_are_dropped() -> None:
    messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"), ("assistant", "So.")]
    parsed = parse_row({"prompt": [{"role": role, "content": content} for role, content in messages]})
    assert [message.role for message in parsed.prompt] == ["system", "user", "assistant", "user"]


def test_system_message_precedes_every_prompt() -> None:
    assert parse_row({"prompt": "Why?"}, system="Be brief.").prompt == (
        Message("system", "Be brief."),
        Message("user", "Why?"),
    )


@pytest.mark.parametrize("column", [{"images": ["a.png"]}, {"image": "a.png"}])
def test_image_paths_are_relative_to_the_file_and_precede_the_question(column: dict[str, Any], tmp_path: Path) -> None:
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    (message,) = parse_row({"prompt": "What is it?", **column}, folder=tmp_path).prompt
    assert isinstance(message.content[0], Media)
    assert message.content[1] == "What is it?"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"question": "Why?"}, r"line 7, field 'prompt': missing or null; the columns are question; map another"),
        ({"prompt": "  "}, "line 7, field 'prompt': expected text, got only white space"),
        ({"prompt": 5}, "field 'prompt': expected text or a list of messages, got 5"),
        ({"prompt": [{"role": "assistant", "content": "So."}]}, "field 'prompt': expected a user message at the end"),
        ({"prompt": "Why?", "id": True}, "field 'id': expected a string or an integer, got True"),
        ({"prompt": "Why?", "images": ["none.png"]}, r"field 'images\[0\]': .*none.png"),
        ({"prompt": "Why?", "image": "none.png"}, r"field 'image': .*none.png"),
    ],
)
def test_invalid_row_is_reported_with_file_row_and_field(data: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_row(data)


def test_kept_columns_must_exist_and_be_json() -> None:
    with pytest.raises(
        UsageError, match="field 'answer': missing, but required for the results; the columns are prompt"
    ):
        parse_row({"prompt": "Why?"}, keep=["answer"])
    with pytest.raises(UsageError, match="field 'when': cannot be written as JSON"):
        parse_row({"prompt": "Why?", "when": object()}, keep=["when"])


@pytest.mark.parametrize(("answer", "number"), [(3, 3), ("3", 3.0), ("1,234.5", 1234.5)])
def test_reference_answer_may_be_a_number_or_text(answer: object, number: float) -> None:
    assert parse_row({"prompt": "Why?", "answer": answer}, number="answer").kept == {"answer": number}


@pytest.mark.parametrize("answer", ["three", None, True, [3]])
def test_reference_answer_that_is_not_a_number_is_rejected(answer: object) -> None:
    with pytest.raises(UsageError, match="line 7, field 'answer': expected a number, got"):
        parse_row({"prompt": "Why?", "answer": answer}, number="answer")


@pytest.mark.parametrize("text", ["prompt", "prompt=", "=x"])
def test_invalid_column_mapping_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="expected FIELD=COLUMN with a field of prompt, id, images"):
        PromptColumns.from_arguments([text])


def test_column_mapping_of_an_unknown_field_suggests_one() -> None:
    with pytest.raises(UsageError, match=r"--column promt=x: there is no field 'promt'; did you mean 'prompt'\?"):
        PromptColumns.from_arguments(["promt=x"])


def test_invalid_rows_are_yielded_as_errors_in_place(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        "\n".join([json.dumps({"prompt": "a"}), "{", json.dumps({"text": "b"}), json.dumps({"prompt": "c"})])
    )
    parsed = list(read_prompts(open_source(str(file)), 0, 4, PromptColumns()))
    assert [isinstance(r, UsageError) for r in parsed] == [False, True, True, False]
    assert [r.id for r in parsed if isinstance(r, PromptRow)] == ["1", "4"]
