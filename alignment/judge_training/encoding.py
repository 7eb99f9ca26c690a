"""Training examples for a judge as token ids and labels, cut exactly as at judging time.

TRL takes rows that are tokens already. They are made by the judge's own renderer, not by the chat template alone, so
that what is trained is what is asked: `<|im_end|>` in an answer is ordinary text here as there, Llama's template gets
the same date, and the reply begins where judging primes it. The loss is on the reply only, and on the token that ends
its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flex_judge.alignment.curation.rows import BadRowError, DropRecord
from flex_judge.judges.errors import RenderError, UsageError, VerdictParseError
from flex_judge.judges.protocol.parsing import extract_answer, parse_answer, split_answer_first_reply
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.turns import Span, Turn
from flex_judge.judges.rubrics import load_rubric

IGNORE_INDEX = -100
"""Label of a token that no loss is taken of."""
PROTOCOL_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)


class EncodingFault(StrEnum):
    """Why a row is left out."""

    NO_CHAT = "prompt or completion is no list of messages"
    NO_REPLY = "completion is not one message of the assistant"
    NO_END = "reasoning without end"
    NO_VERDICT = "no verdict, or not one score a response"
    CONTROL = "control token in the reply"
    OVERLONG = "longer than max_length"


@dataclass(frozen=True)
class EncodedExample:
    """A training example as the trainer takes it."""

    row: int
    """Its number in the data, from 1."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    """As `input_ids`, with IGNORED for those of the prompt."""
    reason_first: bool
    """Whether the reply thinks before it answers."""


def encode_examples(
    rows: Iterable[Mapping[str, Any]], renderer: Renderer, max_length: int
) -> tuple[list[EncodedExample], list[DropRecord]]:
    """Rows of TRL's conversational prompt-completion form as tokens; those that teach nothing good are left out.

    A row may say more of itself, as `flex-judge curate` writes it: with `responses` and `rubric`, its completion must
    be a verdict of that rubric on so many responses.

    Args:
        rows: with `prompt` and `completion`, lists of messages.
        renderer: of the model that is tuned.
        max_length: of prompt and reply together, in tokens. A longer training example would lose its verdict if it
        were cut.
    """
    end = renderer.encode_end_of_turn()
    found, dropped = [], []
    for number, row in enumerate(rows, 1):
        try:
            turns, reply = _parse_chat(row)
            _check_reply(reply, row)
            ids, start = _tokenize_chat(turns, reply, renderer)
            ids += end
            if len(ids) > max_length:
                raise BadRowError(EncodingFault.OVERLONG, f"{len(ids)} tokens, and max_length is {max_length}")
        except BadRowError as e:
            dropped.append(DropRecord(number, e.fault, e.detail))
        else:
            labels = (IGNORE_INDEX,) * start + tuple(ids[start:])
            found.append(EncodedExample(number, tuple(ids), labels, is_reason_first(reply)))
    return found, dropped


def is_reason_first(reply: str) -> bool:
    """Whether a reply thinks before it answers; the other way round is an ablation."""
    return not reply.lstrip().startswith(ANSWER_OPEN)


def _parse_chat(row: Mapping[str, Any]) -> tuple[list[Turn], str]:
    prompt, completion = (_parse_messages(row.get(name), name) for name in ("prompt", "completion"))
    if [role for role, _ in completion] != ["assistant"] or not completion[0][1].strip():
        raise BadRowError(
            EncodingFault.NO_REPLY, f"field 'completion' has the roles {[role for role, _ in completion]}"
        )
    # The system message is the judge's instructions; what follows may hold anybody's text.
    turns = [Turn(role, (Span(text, trusted=role == "system"),)) for role, text in prompt]
    return turns, completion[0][1]


def _parse_messages(value: Any, field: str) -> list[tuple[str, str]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRowError(EncodingFault.NO_CHAT, f"field {field!r} is {type(value).__name__}, not a list of messages")
    for message in value:
        told = message if isinstance(message, Mapping) else {}
        if not isinstance(told.get("role"), str) or not isinstance(told.get("content"), str):
            raise BadRowError(EncodingFault.NO_CHAT, f"field {field!r} holds what is no message with a role and a text")
    return [(message["role"], message["content"]) for message in value]


def _check_reply(reply: str, row: Mapping[str, Any]) -> None:
    """Refuse a reply that the judge's own reading takes for no verdict."""
    if (opened := reply.count(THINK_OPEN)) != 1 or reply.count(THINK_CLOSE) != 1:
        closed = reply.count(THINK_CLOSE)
        raise BadRowError(
            EncodingFault.NO_END,
            f"the reply has {opened} {THINK_OPEN} and {closed} {THINK_CLOSE}; one of each is wanted",
        )
    said = extract_answer(reply) if is_reason_first(reply) else split_answer_first_reply(reply)[0]
    rubric, responses = row.get("rubric"), row.get("responses")
    if isinstance(rubric, str) and isinstance(responses, Sequence):
        try:
            parse_answer(said, len(responses), load_rubric(rubric))
        except (VerdictParseError, UsageError) as e:  # the rubric may not exist
            raise BadRowError(EncodingFault.NO_VERDICT, str(e)) from e
    elif not 0 < said.count(ANSWER_OPEN) == said.count(ANSWER_CLOSE):
        raise BadRowError(
            EncodingFault.NO_VERDICT, f"the reply has {said.count(ANSWER_OPEN)} {ANSWER_OPEN} after its thinking"
        )


def _tokenize_chat(turns: Sequence[Turn], reply: str, renderer: Renderer) -> tuple[list[int], int]:
    """All tokens but the end of the turn, and how many of them are the prompt's."""
    plain = reply
    for tag in PROTOCOL_TAGS:
        plain = plain.replace(tag, "")
    if renderer.has_control_token(plain):
        raise BadRowError(EncodingFault.CONTROL, "the reply has the text of one of the model's control tokens")
    prefill = renderer.profile.prefill if is_reason_first(reply) and reply.startswith(renderer.profile.prefill) else ""
    try:
        prompt = renderer.render(turns).token_ids
        prefilled = renderer.render(turns, prefill).token_ids
    except RenderError as e:
        raise BadRowError(EncodingFault.NO_CHAT, str(e)) from e
    # The last token of the prompt may be another one where it meets the reply's first.
    start = next((i for i, (a, b) in enumerate(zip(prompt, prefilled, strict=False)) if a != b), len(prompt))
    return [*prefilled, *renderer.encode_with_control_tokens(reply.removeprefix(prefill))], start
