"""Messages to token ids, so that text from a user or a policy can never act as control tokens.

The chat template is rendered around placeholders for untrusted text. The result is cut at the control tokens that the
template itself wrote; each piece between two of them, untrusted text now filled in, is encoded by a copy of the
tokenizer that knows no control tokens. Control tokens are hard boundaries to a tokenizer anyway, so harmless text
gets exactly the tokens of the model's own template, while `<|im_end|>` in an answer becomes several ordinary tokens.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from judges.errors import RenderError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Span:
    """A piece of a message."""

    text: str
    trusted: bool = False
    """Whether control tokens written in the text are meant as such: true for our own words only."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat, as spans."""

    role: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class RenderedPrompt:
    token_ids: tuple[int, ...]
    """The whole prompt, as the engine gets it."""


class Renderer:
    """Renders chats for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from tokenizers import Tokenizer

        if not tokenizer.is_fast or not tokenizer.chat_template:
            raise RenderError(f"tokenizer {tokenizer.name_or_path!r} needs a fast backend and a chat template")
        self.tokenizer = tokenizer
        added = tokenizer.get_added_vocab()
        self._control_ids = dict(added)
        names = sorted(added, key=len, reverse=True)  # longest first: one name may begin another
        self._control = re.compile("|".join(map(re.escape, names))) if names else re.compile(r"(?!)")
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["added_tokens"], backend["post_processor"] = [], None
        self._plain = Tokenizer.from_str(json.dumps(backend))
        self._trims: dict[str, bool] = {}

    def encode_untrusted(self, text: str) -> list[int]:
        """Token ids of `text` as ordinary text, whatever is written in it."""
        ids = self._plain.encode(text, add_special_tokens=False).ids
        if not set(self._control_ids.values()).isdisjoint(ids):
            raise RenderError("the tokenizer reaches a control token from ordinary text")
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, control tokens by name and no white space tidied away."""
        return self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)

    def render(self, turns: Sequence[Turn], prime: str = "") -> RenderedPrompt:
        """The token ids of a chat, up to where the assistant's reply begins.

        Args:
            turns: the chat, system message first if there is one.
            prime: trusted text that the reply is made to begin with.

        Raises:
            RenderError: the chat template loses or repeats a text, or refuses the roles.
        """
        untrusted: dict[str, str] = {}
        messages = []
        for turn in turns:
            spans = _strip(turn.spans) if self._template_trims(turn.role) else turn.spans
            content = ""
            for span in spans:
                if span.trusted:
                    content += span.text
                elif span.text:
                    nonce = secrets.token_hex(16)
                    untrusted[nonce] = span.text
                    content += nonce
            messages.append({"role": turn.role, "content": content})
        text = self._apply_template(messages) + prime
        for nonce in untrusted:
            if text.count(nonce) != 1:
                raise RenderError(f"the chat template writes a message {text.count(nonce)} times instead of once")
        fill = re.compile("|".join(untrusted)) if untrusted else None

        token_ids: list[int] = []
        start = 0
        for control in [*self._control.finditer(text), None]:
            piece = text[start : control.start() if control else len(text)]
            if piece:
                filled = fill.sub(lambda m: untrusted[m.group()], piece) if fill else piece
                token_ids += self.encode_untrusted(filled)
            if control:
                token_ids.append(self._control_ids[control.group()])
                start = control.end()
        return RenderedPrompt(tuple(token_ids))

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as e:
            raise RenderError(f"the chat template refuses this chat: {e}") from e
        assert isinstance(text, str)
        return text

    def _template_trims(self, role: str) -> bool:
        """Whether the template strips white space around a message of this role (Llama 3's does)."""
        if role not in self._trims:
            nonce = secrets.token_hex(8)
            chat = [{"role": "user", "content": "."}] if role != "user" else []
            probe = {"role": role, "content": f" {nonce} "}
            text = self._apply_template([probe, *chat] if role == "system" else [*chat, probe])
            self._trims[role] = f" {nonce} " not in text
        return self._trims[role]


def _strip(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans with white space removed from both ends of their joined text."""
    kept = list(spans)
    while kept and not kept[0].text.lstrip():
        kept.pop(0)
    while kept and not kept[-1].text.rstrip():
        kept.pop()
    if kept:
        kept[0] = replace(kept[0], text=kept[0].text.lstrip())
        kept[-1] = replace(kept[-1], text=kept[-1].text.rstrip())
    return tuple(kept)
