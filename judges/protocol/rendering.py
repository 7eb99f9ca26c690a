"""Messages to token ids, so that text from a user or a policy can never act as control tokens.

The chat template is rendered around placeholders for untrusted text. The result is cut at the control tokens that the
template itself wrote; each piece between two of them, untrusted text now filled in, is encoded by a copy of the
tokenizer that knows no control tokens. Control tokens are hard boundaries to a tokenizer anyway, so harmless text
gets exactly the tokens of the model's own template, while `<|im_end|>` in an answer becomes several ordinary tokens.

Media are placed here too: one placeholder each, written by us and counted afterwards, so that no text can add one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flex_judge.judges.errors import MediaError, RenderError
from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import CHAT, Profile
from flex_judge.judges.protocol.turns import Span, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RenderedPrompt:
    token_ids: tuple[int, ...]
    """The whole prompt, as the engine gets it: one pad token per medium."""
    media: tuple[PreparedMedia, ...] = ()
    """What the pads stand for, in their order."""
    length: int = 0
    """Tokens that the model will see, every medium at its full length."""


class Renderer:
    """Renders chats for one tokenizer and model family."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, profile: Profile = CHAT) -> None:
        from tokenizers import Tokenizer

        if not tokenizer.is_fast or not tokenizer.chat_template:
            raise RenderError(f"tokenizer {tokenizer.name_or_path!r} needs a fast backend and a chat template")
        self.tokenizer = tokenizer
        self.profile = profile
        self._placeholders = PlaceholderTokens(profile, tokenizer)
        added = tokenizer.get_added_vocab()
        # Runs of spaces that some tokenizers add as tokens are ordinary text; all else that was added can control.
        self._spaces = {text: i for text, i in added.items() if not text.strip()}
        self._control_ids = {text: i for text, i in added.items() if text.strip()}
        self._space = _compile_alternatives(self._spaces)
        self._control = _compile_alternatives(self._control_ids)
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["added_tokens"], backend["post_processor"] = [], None
        self._plain = Tokenizer.from_str(json.dumps(backend))
        self._check_tokenizer()

    def encode_as_plain_text(self, text: str) -> list[int]:
        """Token ids of `text` as ordinary text, whatever is written in it. Half a surrogate pair becomes U+FFFD."""
        text = _LONE_SURROGATE.sub("\ufffd", text)
        ids: list[int] = []
        start = 0
        for space in [*self._space.finditer(text), None]:
            if piece := text[start : space.start() if space else len(text)]:
                ids += self._plain.encode(piece, add_special_tokens=False).ids
            if space:
                ids.append(self._spaces[space.group()])
                start = space.end()
        if not set(self._control_ids.values()).isdisjoint(ids):
            raise RenderError("the tokenizer reaches a control token from ordinary text")
        return ids

    def encode_with_control_tokens(self, text: str) -> list[int]:
        """Token ids of our own words, in which control tokens are meant as such."""
        return self._encode_template_output(text, {})

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, control tokens by name and no white space tidied away."""
        return str(self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def render(self, turns: Sequence[Turn], prefill: str = "", limits: MediaLimits | None = None) -> RenderedPrompt:
        """The token ids of a chat, up to where the assistant's reply begins. Decodes media, which can take a while.

        Args:
            turns: the chat, system message first if there is one.
            prefill: trusted text that the reply is made to begin with, unless the template ends with it anyway.
            limits: how media are scaled, where that differs from the model family's own limits.

        Raises:
            RenderError: the chat template loses or repeats a text or refuses the roles, or a role is a control token.
            MediaError: a medium that cannot be read, or of a modality that the model does not take.
        """
        untrusted: dict[str, str] = {}
        media: list[Media] = []
        messages = []
        for turn in turns:
            if self._control.search(turn.role):
                raise RenderError(f"the role {turn.role!r:.80} holds a control token")
            content = "".join(self._format_piece(piece, untrusted, media) for piece in turn.pieces)
            messages.append({"role": turn.role, "content": content})
        text = self._apply_template(messages)
        text += "" if text.endswith(prefill) else prefill
        for nonce in untrusted:
            if text.count(nonce) != 1:
                raise RenderError(f"the chat template writes a message {text.count(nonce)} times instead of once")
        token_ids = tuple(self._encode_template_output(text, untrusted))
        self._placeholders.match_modalities(token_ids, [medium.modality for medium in media])
        limits = (limits or MediaLimits()).fill_defaults(self.profile.limits)
        prepared = tuple(prepare_media(medium, self.profile, limits) for medium in media)
        return RenderedPrompt(token_ids, prepared, self.profile.count_prompt_tokens(token_ids, prepared))

    def encode_end_of_turn(self) -> tuple[int, ...]:
        """What the chat template writes after a reply, up to and with the control token that ends the turn.

        Raises:
            RenderError: it writes no control token there.
        """
        reply = secrets.token_hex(16)
        text = self._apply_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": reply}])
        after = text.partition(reply)[2]
        control = self._control.search(after)
        if control is None:
            raise RenderError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends a reply with no control token"
            )
        return tuple(self._encode_template_output(after[: control.end()], {}))

    def has_control_token(self, text: str) -> bool:
        """Whether the text of a control token is written in a text."""
        return self._control.search(text) is not None

    def _format_piece(self, piece: Span | Media, untrusted: dict[str, str], media: list[Media]) -> str:
        """What the template is given for a piece; notes untrusted texts by their nonce, and media in their order."""
        if isinstance(piece, Media):
            if placeholder := self.profile.placeholders.get(piece.modality):
                media.append(piece)
                return placeholder.text
            if piece.modality != Modality.MOLECULE:
                takes = ", ".join(self.profile.placeholders) or "text only"
                raise MediaError(f"{piece.name}: the model takes no {piece.modality} ({self.profile.name}: {takes})")
            piece = Span(piece.data.decode())
        core = piece.text.strip()
        if piece.trusted or not core:
            return piece.text
        # White space at the ends stays outside, where the template can trim it as it does for any text.
        nonce = secrets.token_hex(16)
        untrusted[nonce] = core
        lead, trail = piece.text.split(core, 1)
        return lead + nonce + trail

    def _encode_template_output(self, text: str, untrusted: Mapping[str, str]) -> list[int]:
        """Cut at the control tokens of `text`, put the untrusted texts in place of their nonces, encode the pieces."""
        fill = _compile_alternatives(untrusted)
        token_ids: list[int] = []
        start = 0
        for control in [*self._control.finditer(text), None]:
            if piece := text[start : control.start() if control else len(text)]:
                token_ids += self.encode_as_plain_text(fill.sub(lambda m: untrusted[m.group()], piece))
            if control:
                token_ids.append(self._control_ids[control.group()])
                start = control.end()
        return token_ids

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.profile.template_options
            )
        except TemplateError as e:
            if len(messages) > 1 and messages[0]["role"] == "system":
                # Some families know no system message: there, its words begin the first one of the user.
                system, first, *rest = messages
                joined = {"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}
                return self._apply_template([joined, *rest])
            raise RenderError(f"the chat template refuses this chat: {e}") from e
        assert isinstance(text, str)
        return text

    def _check_tokenizer(self) -> None:
        """Refuse a tokenizer that has ways of its own (words joined over control tokens, say) which this class does
        not follow: a prompt that differs from the model's own template in silence would be worse."""
        chat = [("user", "a b  c    d\n\n e\n"), ("assistant", " a  b"), ("user", "c   d")]
        try:
            text = self._apply_template([{"role": role, "content": content} for role, content in chat])
        except RenderError:
            return  # a template that refuses this chat may still take a judge's
        if self._encode_template_output(text, {}) != self.tokenizer.encode(text, add_special_tokens=False):
            raise RenderError(f"tokenizer {self.tokenizer.name_or_path!r} cuts text in a way that is not supported")


def _compile_alternatives(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern for any of the texts; longest first, as one may begin another. Of no texts it matches nothing."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) if texts else r"(?!)")
