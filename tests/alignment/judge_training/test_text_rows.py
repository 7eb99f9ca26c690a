"""Training rows as published: a prompt and a text with chat markup train like messages of the same conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples import make_example, make_examples
from lazy import lazy
from sft_command import sft
from tiny_models import tiny_llama, tiny_qwen_omni, tiny_qwen_vl

from flex_judge.alignment.judge_training.encoding import IGNORE_INDEX, EncodedExample, encode_examples
from flex_judge.judges.protocol.rendering import Renderer

load_renderer = lazy("flex_judge.alignment.judge_training.tuning", "load_renderer")

TINY = {"flex-vl": tiny_qwen_vl, "flex-omni": tiny_qwen_omni, "flex-llama": tiny_llama}


@pytest.fixture(scope="module", params=TINY)
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return load_renderer(str(TINY[request.param](tmp_path_factory.mktemp("model") / "tiny")))


def render_row(row: dict[str, Any], renderer: Renderer, form: str) -> dict[str, str]:
    """Write a conversation with the model's own template.

    Args:
        row: Prompt and completion as messages.
        renderer: Renderer of the model.
        form: `chat`: the whole chat in `text`. `reply`: its last part alone, after a prompt with the opened reasoning,
            as the published script joins them. `stripped`: `chat` without white space and end of turn at the end.
    """

    def apply_template(messages: list[dict[str, str]], add: bool) -> str:
        options = renderer.profile.template_options
        text = renderer.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add, **options)
        assert isinstance(text, str)
        return text

    prompt = apply_template(row["prompt"], True)
    chat = apply_template([*row["prompt"], *row["completion"]], False)
    assert chat.startswith(prompt)
    reply = row["completion"][0]["content"]
    if form == "reply":
        opening = "<think>\n"
        assert reply.startswith(opening)
        return {"prompt": prompt + opening, "text": reply.removeprefix(opening).strip()}
    if form == "stripped":
        return {"prompt": prompt, "text": prompt + reply}
    return {"prompt": prompt, "text": chat}


def encode_row(row: dict[str, Any], renderer: Renderer) -> EncodedExample:
    encoded, dropped = encode_examples([row], renderer, 8192)
    assert not dropped, dropped
    return encoded[0]


@pytest.mark.parametrize("form", ["chat", "stripped", "reply"])
def test_text_trains_the_same_tokens_as_messages(form: str, renderer: Renderer) -> None:
    for row in make_examples(6):
        messages = {name: row[name] for name in ("prompt", "completion")}
        from_messages, from_text = (
            encode_row(version, renderer) for version in (messages, render_row(messages, renderer, form))
        )
        assert from_text.input_ids == from_messages.input_ids
        assert from_text.labels == from_messages.labels
        assert from_text.reason_first == from_messages.reason_first


def render_chatml(row: dict[str, Any]) -> dict[str, str]:
    """Write a conversation as the published rows are written, with the opened reasoning in the prompt."""
    turns = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in row["prompt"])
    reply = row["completion"][0]["content"]
    opening = "<think>\n"
    return {"prompt": f"{turns}<|im_start|>assistant\n{opening}", "text": reply.removeprefix(opening)}


def test_published_markup_trains_models_with_another_template(renderer: Renderer) -> None:
    for row in make_examples(3):
        chat = render_chatml(row)
        expected = encode_row({name: row[name] for name in ("prompt", "completion")}, renderer)
        for version in (chat, {**chat, "text": chat["prompt"] + chat["text"] + "<|im_end|>\n"}):
            encoded = encode_row(version, renderer)
            assert encoded.input_ids == expected.input_ids
            assert encoded.labels == expected.labels
    # Text between the turns is no chat.
    broken = {**chat, "prompt": chat["prompt"].replace("<|im_start|>user", "<|im_start|>")}
    _, dropped = encode_examples([broken], renderer, 8192)
    if renderer.profile.name == "flex-llama":
        assert "expected turns from <|im_start|> to <|im_end|>" in dropped[0].detail


def test_prompt_may_end_before_the_header_of_the_reply(renderer: Renderer) -> None:
    row = make_example("What is 2 + 3?", "It is 5.", "It is 6.")
    whole = render_row(row, renderer, "chat")
    expected = encode_row(whole, renderer)
    options = renderer.profile.template_options
    for prompt in (
        renderer.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=False, **options),
        whole["prompt"].rstrip(),
        whole["prompt"] + "<think>",
    ):
        assert encode_row({**whole, "prompt": prompt}, renderer).labels == expected.labels


def test_markup_in_a_question_is_markup_as_in_the_published_script(renderer: Renderer) -> None:
    end = renderer.decode(renderer.encode_end_of_turn())
    row = make_example("What is 2 + 3?", "It is 5.", "It is 6.")
    text_row = render_row(row, renderer, "chat")
    prompt = text_row["prompt"].replace("It is 5.", f"It is 5.{end}")
    encoded = encode_row({"prompt": prompt, "text": prompt + row["completion"][0]["content"]}, renderer)
    plain = encode_row(text_row, renderer)
    end_id = renderer.encode_end_of_turn()[-1]
    assert encoded.input_ids.count(end_id) == plain.input_ids.count(end_id) + 1
    assert [label for label in encoded.labels if label != IGNORE_INDEX] == [
        label for label in plain.labels if label != IGNORE_INDEX
    ]


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"text": "Another text."}, "text does not begin with the prompt", "got 'Another text.'"),
        ({"text": "{prompt!}"}, "text does not begin with the prompt", "field 'text': expected the whole chat"),
        ({"prompt": "What is 2 + 3?"}, "text does not begin with the prompt", "a 'prompt' that ends with"),
        ({"prompt": "{first}"}, "prompt does not end where a reply", "use messages in 'prompt' and 'completion'"),
        ({"prompt": 5}, "prompt or text is not a text", "field 'prompt': expected a text with chat markup, got int"),
        (
            {"text": None},
            "prompt or text is not a text",
            "field 'text': expected a text with chat markup, got NoneType",
        ),
    ],
)
def test_row_that_is_no_chat_is_one_dropped_row(
    change: dict[str, Any], reason: str, detail: str, renderer: Renderer
) -> None:
    row = render_row(make_example("What is 2 + 3?", "It is 5.", "It is 6."), renderer, "chat")
    fill = {"{prompt!}": row["prompt"].replace("2 + 3", "2 + 4") + "x", "{first}": row["prompt"][:20]}
    changed = {**row, **{name: fill.get(str(value), value) for name, value in change.items()}}
    encoded, dropped = encode_examples([row, changed, row], renderer, 8192)
    assert [example.row for example in encoded] == [1, 3]
    (record,) = dropped
    assert record.row == 2
    assert reason in record.reason
    assert detail in record.detail


def test_placeholder_of_an_image_is_a_dropped_row(tmp_path: Path) -> None:
    renderer: Renderer = load_renderer(str(tiny_qwen_vl(tmp_path / "tiny")))
    row = render_row(make_example("What is 2 + 3?", "It is 5.", "It is 6."), renderer, "chat")
    mark = renderer.profile.placeholders["image"].text  # type: ignore[index]
    changed = {name: text.replace("What is", f"{mark} What is") for name, text in row.items()}
    _, dropped = encode_examples([changed], renderer, 8192)
    assert "a placeholder of image" in dropped[0].detail


def test_command_trains_on_published_rows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = tiny_llama(tmp_path / "base")
    renderer: Renderer = load_renderer(str(base))
    rows = [render_row(row, renderer, "reply") for row in make_examples(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "prompt": "Hello"}]))
    assert sft(base, file, tmp_path / "judge", "--eval_strategy", "no", "--held-out-rows", "0") == 0
    assert "(1 left out)" in capfd.readouterr().err
    (dropped,) = map(json.loads, (tmp_path / "judge" / "recipe" / "dropped.jsonl").read_text().splitlines())
    assert dropped["row"] == 5
    assert "text does not begin with the prompt" in dropped["reason"]
