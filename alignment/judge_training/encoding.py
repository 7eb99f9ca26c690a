"""Tokenization of training examples for a judge, identical to the tokenization at judging time.

TRL accepts rows that are tokenized already. The judge's own renderer makes them here, not the chat template alone, for
three reasons: the text `<|im_end|>` in an answer stays ordinary text, Llama's template gets the same date, and the
reply begins after the same prefill. The loss covers the reply and its end-of-turn token only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flex_judge.alignment.curation.rows import BadRowError, DropRecord
from flex_judge.alignment.judge_training.text_rows import PROTOCOL_TAGS, ReplyMarkup, is_text_row, split_text_row
from flex_judge.judges.errors import RenderError, UsageError, VerdictParseError
from flex_judge.judges.protocol.parsing import extract_answer, parse_answer, split_answer_first_reply
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.turns import Span, Turn
from flex_judge.judges.rubrics import load_rubric

IGNORE_INDEX = -100
"""Label of tokens that do not contribute to the loss (the default of torch's cross entropy)."""


class EncodingFault(StrEnum):
    """Reason why a row is dropped."""

    NOT_MESSAGES = "prompt or completion is not a list of messages"
    NOT_RENDERABLE = "chat template rejects the messages"
    NO_REPLY = "completion is not one assistant message"
    UNCLOSED_REASONING = "reasoning is not one closed block"
    NO_VERDICT = "no verdict with one score per response"
    CONTROL_TOKEN = "control token in the reply"
    OVERLONG = "longer than max_length"


@dataclass(frozen=True)
class EncodedExample:
    """Tokenized training example."""

    row: int
    """Row number in the data, from 1."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """Copy of `input_ids` with IGNORE_INDEX in place of the prompt tokens."""
    reason_first: bool
    """Whether the reply reasons before it answers."""


def encode_examples(
    rows: Iterable[Mapping[str, Any]], renderer: Renderer, max_length: int
) -> tuple[list[EncodedExample], list[DropRecord]]:
    """Tokenize rows in TRL's conversational prompt-completion format, or as published with Flex-Judge.

    Rows that are unsuitable for training are dropped. The published rows have `prompt` and `text`, see `text_rows`.

    Rows written by `flex-judge curate` also have `responses` and `rubric`. Their completion must be a verdict under
    that rubric for that number of responses.

    Args:
        rows: Rows with `prompt` and `completion`, both lists of messages; or with `prompt` and `text`, both texts.
        renderer: Renderer of the model that is tuned.
        max_length: Maximum length of prompt and reply together in tokens. Longer examples are dropped, because
            truncation would cut off the verdict.

    Returns:
        Tokenized examples, and records of the dropped rows.
    """
    end_of_turn, markup = renderer.encode_end_of_turn(), ReplyMarkup.from_renderer(renderer)
    examples, dropped = [], []
    for number, row in enumerate(rows, 1):
        try:
            prompt, reply = split_text_row(row, renderer, markup) if is_text_row(row) else _parse_chat(row)
            _check_reply(reply, row)
            ids, prompt_length = _tokenize_chat(prompt, reply, renderer)
            # The end of the turn is trained too: a judge that never ends its turn runs into the token limit.
            ids += end_of_turn
            if len(ids) > max_length:
                raise BadRowError(EncodingFault.OVERLONG, f"{len(ids)} tokens; max_length is {max_length}")
        except BadRowError as e:
            dropped.append(DropRecord(number, e.fault, e.detail))
        else:
            labels = (IGNORE_INDEX,) * prompt_length + tuple(ids[prompt_length:])
            examples.append(EncodedExample(number, tuple(ids), labels, is_reason_first(reply)))
    return examples, dropped


def is_reason_first(reply: str) -> bool:
    """Check whether a reply reasons before it answers. The reverse order is an ablation."""
    return not reply.lstrip().startswith(ANSWER_OPEN)


def _parse_chat(row: Mapping[str, Any]) -> tuple[list[Turn], str]:
    prompt, completion = (_parse_messages(row.get(name), name) for name in ("prompt", "completion"))
    roles = [role for role, _ in completion]
    if roles != ["assistant"] or not completion[0][1].strip():
        raise BadRowError(
            EncodingFault.NO_REPLY, f"field 'completion': expected one assistant message with text, got roles {roles}"
        )
    # Only the system message, the judge's instructions, is trusted. All other messages are untrusted text.
    turns = [Turn(role, (Span(text, trusted=role == "system"),)) for role, text in prompt]
    return turns, completion[0][1]


def _parse_messages(value: Any, field: str) -> list[tuple[str, str]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRowError(
            EncodingFault.NOT_MESSAGES,
            f"field {field!r}: expected a list of messages, got {type(value).__name__}; a row is prompt and completion "
            "(messages), or prompt and text (the rendered chat)",
        )
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise BadRowError(
                EncodingFault.NOT_MESSAGES, f"field {field!r}: a message lacks a role or text content; it needs both"
            )
        messages.append((role, content))
    return messages


def _check_reply(reply: str, row: Mapping[str, Any]) -> None:
    """Raise BadRowError if the judge's parser does not accept a reply as a verdict."""
    opened, closed = reply.count(THINK_OPEN), reply.count(THINK_CLOSE)
    if opened != 1 or closed != 1:
        raise BadRowError(
            EncodingFault.UNCLOSED_REASONING,
            f"the reply has {opened} {THINK_OPEN} and {closed} {THINK_CLOSE}; expected one of each",
        )
    answer = extract_answer(reply) if is_reason_first(reply) else split_answer_first_reply(reply)[0]
    rubric, responses = row.get("rubric"), row.get("responses")
    if isinstance(rubric, str) and isinstance(responses, Sequence):
        try:
            parse_answer(answer, len(responses), load_rubric(rubric))
        except (VerdictParseError, UsageError) as e:  # UsageError: the rubric does not exist
            raise BadRowError(EncodingFault.NO_VERDICT, str(e)) from e
        return
    opened, closed = answer.count(ANSWER_OPEN), answer.count(ANSWER_CLOSE)
    if opened == 0 or opened != closed:
        raise BadRowError(
            EncodingFault.NO_VERDICT,
            f"the answer has {opened} {ANSWER_OPEN} and {closed} {ANSWER_CLOSE}; expected equally many, one or more",
        )


def _tokenize_chat(prompt: Sequence[Turn] | str, reply: str, renderer: Renderer) -> tuple[list[int], int]:
    """Tokenize prompt and reply, without the end-of-turn token.

    Args:
        prompt: The turns of the prompt, or its rendered text.
        reply: The reply.
        renderer: Renderer of the model that is tuned.

    Returns:
        Token ids, and the number of prompt tokens.
    """
    # In some vocabularies the protocol's tags are control tokens; a reply may contain these.
    reply_without_tags = reply
    for tag in PROTOCOL_TAGS:
        reply_without_tags = reply_without_tags.replace(tag, "")
    if renderer.has_control_token(reply_without_tags):
        raise BadRowError(EncodingFault.CONTROL_TOKEN, "the reply contains the text of a control token of the model")
    prefill = renderer.profile.prefill if is_reason_first(reply) and reply.startswith(renderer.profile.prefill) else ""
    try:
        plain, prefilled = (_tokenize_prompt(prompt, start, renderer) for start in ("", prefill))
    except RenderError as e:
        raise BadRowError(EncodingFault.NOT_RENDERABLE, str(e)) from e
    # The tokenizer may merge the end of the prompt with the start of the reply, so the prompt ends where the two
    # token sequences diverge.
    prompt_length = next((i for i, (a, b) in enumerate(zip(plain, prefilled, strict=False)) if a != b), len(plain))
    return [*prefilled, *renderer.encode_with_control_tokens(reply.removeprefix(prefill))], prompt_length


def _tokenize_prompt(prompt: Sequence[Turn] | str, prefill: str, renderer: Renderer) -> Sequence[int]:
    """Tokenize a prompt with the beginning of the reply, unless the prompt already ends with it."""
    if not isinstance(prompt, str):
        return renderer.render(prompt, prefill).token_ids
    return renderer.encode_with_control_tokens(prompt if prompt.endswith(prefill) else prompt + prefill)
