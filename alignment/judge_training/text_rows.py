"""Training rows as published with Flex-Judge (arXiv 2505.18601): a prompt and a text, both with chat template markup.

`prompt` is the rendered chat up to the start of the reply; it may also contain the `<think>` that the reply begins
with. `text` is the whole chat, or the rest of the reply alone: the published script trains on `prompt + text`. As in
that script, control tokens in the markup are control tokens, and the loss begins after the header of the assistant's
turn. These rows are therefore trusted: a question that contains `<|im_end|>` ends its turn.

The published rows have the markup of Qwen (ChatML). For a model with another template, such as Llama, they are parsed
into messages, which that template writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flex_judge.alignment.curation.rows import BadRowError
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.turns import Span, Turn

PROTOCOL_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


class TextRowFault(StrEnum):
    """Reason why a row with `prompt` and `text` is dropped."""

    NOT_TEXT = "prompt or text is not a text"
    OTHER_PROMPT = "text does not begin with the prompt"
    NO_HEADER = "prompt does not end where a reply of the model begins"
    MEDIA = "media placeholder without a medium"


@dataclass(frozen=True)
class ReplyMarkup:
    """Markup that the chat template of a model writes around a reply."""

    header: str
    """Text before the reply, such as `<|im_start|>assistant` and a line break."""
    end: str
    """Control token after the reply, such as `<|im_end|>`."""

    @classmethod
    def from_renderer(cls, renderer: Renderer) -> ReplyMarkup:
        """Read the markup from the chat template of a renderer's tokenizer."""
        question, options = [{"role": "user", "content": "a"}], renderer.profile.template_options
        without, with_header = (
            str(renderer.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=add, **options))
            for add in (False, True)
        )
        return cls(with_header.removeprefix(without), renderer.decode(renderer.encode_end_of_turn()).strip())


CHATML = ReplyMarkup("<|im_start|>assistant\n", "<|im_end|>")
_CHATML_START, _CHATML_CONTROL = "<|im_start|>", "<|im_"
_CHATML_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n?", re.DOTALL)


def is_text_row(row: Mapping[str, Any]) -> bool:
    """Check whether a row has a text instead of a completion."""
    return "text" in row and "completion" not in row


def split_text_row(row: Mapping[str, Any], renderer: Renderer, markup: ReplyMarkup) -> tuple[str | list[Turn], str]:
    """Split a row at the end of the header of the assistant's turn.

    Returns:
        The rendered prompt, or its turns if the row has ChatML and the model another template; and the reply without
        the end of its turn.

    Raises:
        BadRowError: The row is no chat of this model, or the text is not the prompt's.
    """
    prompt, text = row.get("prompt"), row["text"]
    for name, value in (("prompt", prompt), ("text", text)):
        if not isinstance(value, str) or not value:
            raise BadRowError(
                TextRowFault.NOT_TEXT, f"field {name!r}: expected a text with chat markup, got {type(value).__name__}"
            )
    assert isinstance(prompt, str)
    is_foreign = prompt.startswith(_CHATML_START) and not renderer.has_control_token(_CHATML_START)
    markup = CHATML if is_foreign else markup
    chat = text if text.startswith(prompt) else _join_reply(prompt, text, renderer, markup)
    start = _find_reply_start(chat, len(prompt), markup)
    if start is None:
        raise BadRowError(
            TextRowFault.NO_HEADER,
            f"field 'prompt': expected it to end with {markup.header!r}, which this model's template writes before a "
            f"reply, got {prompt[-40:]!r}; use messages in 'prompt' and 'completion' for chats of other models",
        )
    rendered, reply = chat[:start], chat[start:].rstrip().removesuffix(markup.end)
    if is_foreign:
        return _parse_chatml(rendered.removesuffix(markup.header)), reply
    for modality, placeholder in renderer.profile.placeholders.items():
        if placeholder.text in rendered:
            raise BadRowError(
                TextRowFault.MEDIA, f"field 'prompt': a placeholder of {modality}; these rows are text only"
            )
    return rendered, reply


def _join_reply(prompt: str, text: str, renderer: Renderer, markup: ReplyMarkup) -> str:
    """Join a prompt and a text that is the rest of the reply.

    Raises:
        BadRowError: The prompt does not end with the header of a reply, or the text is no verdict or has turns of its
            own.
    """
    reply = text.rstrip().removesuffix(markup.end)
    for tag in PROTOCOL_TAGS:  # in some vocabularies the tags are control tokens
        reply = reply.replace(tag, "")
    opens_reply = prompt.rstrip().removesuffix(THINK_OPEN).rstrip().endswith(markup.header.rstrip())
    # A text without a verdict is no rest of a reply, so the missing prompt is the problem to name.
    has_verdict = THINK_CLOSE in text and ANSWER_OPEN in text
    has_turns = renderer.has_control_token(reply) or (markup is CHATML and _CHATML_CONTROL in reply)
    if not opens_reply or not has_verdict or has_turns:
        raise BadRowError(
            TextRowFault.OTHER_PROMPT,
            "field 'text': expected the whole chat, which begins with 'prompt', or the rest of the reply to a "
            f"'prompt' that ends with {markup.header!r}; got {text[:40]!r}",
        )
    return prompt + text


def _parse_chatml(text: str) -> list[Turn]:
    """Parse the turns of a chat in ChatML.

    Raises:
        BadRowError: The text is not a sequence of turns.
    """
    turns, end = [], 0
    for match in _CHATML_TURN.finditer(text):
        if match.start() != end:
            break
        turns.append(Turn(match[1], (Span(match[2], trusted=match[1] == "system"),)))
        end = match.end()
    if end < len(text):
        raise BadRowError(
            TextRowFault.NO_HEADER,
            f"field 'prompt': expected turns from <|im_start|> to <|im_end|>, got {text[end : end + 40]!r}",
        )
    return turns


def _find_reply_start(chat: str, prompt_length: int, markup: ReplyMarkup) -> int | None:
    """Find the end of the header of the assistant's turn at the end of the prompt; None without one there.

    The prompt may end with the `<think>` of the reply, or just before the header.
    """
    header = chat.rfind(markup.header, 0, prompt_length)
    if header >= 0 and chat[header + len(markup.header) : prompt_length].strip() in ("", THINK_OPEN):
        return header + len(markup.header)
    header = chat.find(markup.header, max(0, prompt_length - len(markup.header)))
    if header >= 0 and not chat[prompt_length:header].strip():
        return header + len(markup.header)
    return None
