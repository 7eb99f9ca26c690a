"""Tokens that end a turn, and their removal from responses that trainers pass as text with control tokens."""

from __future__ import annotations

from collections.abc import Sequence

END_OF_TURN = (
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
    "<|end|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<pad>",
    "<|pad|>",
)
"""End-of-turn and padding tokens of common model families."""


def strip_end_of_turn(text: str, tokens: Sequence[str]) -> str:
    """Strip all end-of-turn tokens from the end of a response, and the white space between and after them.

    White space before the first of these tokens belongs to the response and is kept.
    """
    length = end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((t for t in tokens if t and text.endswith(t, 0, end)), None)
        if token is None:
            return text[:length]
        length = end = end - len(token)
