"""Render chat messages to token ids, so that text from a user or a policy can never act as a control token.

The chat template is rendered with a random nonce in place of each untrusted text, names and arguments of tool calls
included. The result is split at the control tokens that the template wrote. Each part between two control tokens gets
its untrusted text back and is encoded by a copy of the tokenizer without control tokens. Tokenizers split text at
control tokens anyway, so harmless text gets exactly the tokens of the model's own template, while `<|im_end|>` in an
answer becomes several ordinary tokens.

Media get one placeholder each. Placeholders are written here and counted afterwards, so that no text can add one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import MediaError, RenderError
from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.inputs.preparation import prepare_all_media
from flex_judge.judges.models.profiles import CHAT, Profile
from flex_judge.judges.protocol.turns import Span, Turn
from flex_judge.judges.protocol.untrusted import SCHEMA_WORDS, TemplateChat, UntrustedTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ToolTurn(Turn):
    """A message with further fields for the chat template. All their text is untrusted."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """`name`, `tool_call_id`, `reasoning_content` and `tool_calls`, in the format of chat templates."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as token ids and media, ready for an engine."""

    token_ids: tuple[int, ...]
    """Token ids of the prompt, with one placeholder token per medium."""
    media: tuple[PreparedMedia, ...] = ()
    """The medium of each placeholder token, in order."""
    length: int = 0
    """Number of tokens that the model processes, with each medium at its full length."""
    unwritten: frozenset[str] = frozenset()
    """Fields that the chat template leaves out, of those that it may leave out: `name`, `reasoning_content`."""
    note: str = ""
    """How the prompt differs from the model's own form, see `render_conversation`; empty if it does not."""


class Renderer:
    """Renders chats for one tokenizer and model family.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        profile: the model family, which defines placeholders of media and template options.

    Raises:
        RenderError: the tokenizer is slow, has no chat template, or splits text in an unsupported way.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, profile: Profile = CHAT) -> None:
        from tokenizers import Tokenizer

        if not tokenizer.is_fast or not tokenizer.chat_template:
            raise RenderError(f"tokenizer {tokenizer.name_or_path!r} needs a fast backend and a chat template")
        self.tokenizer = tokenizer
        self.profile = profile
        self._placeholders = PlaceholderTokens(profile, tokenizer)
        added = tokenizer.get_added_vocab()
        # Some tokenizers add runs of spaces as tokens. They are ordinary text; every other added token can control.
        self._space_ids = {text: i for text, i in added.items() if not text.strip()}
        self._control_ids = {text: i for text, i in added.items() if text.strip()}
        self._space_pattern = _compile_alternatives(self._space_ids)
        self._control_pattern = _compile_alternatives(self._control_ids)
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Without added tokens no text becomes a control token. The post-processor may refer to them, so it goes too.
        backend["added_tokens"], backend["post_processor"] = [], None
        self._plain_tokenizer = Tokenizer.from_str(json.dumps(backend))
        self._check_tokenizer()

    @cached_property
    def max_token_length(self) -> int:
        """Maximum length of a token in characters, so the minimum number of tokens of a text can be computed."""
        return max(len(token) for token in self.tokenizer.get_vocab())

    def encode_as_plain_text(self, text: str) -> list[int]:
        """Encode untrusted text, treating control tokens as ordinary text. A lone surrogate becomes U+FFFD.

        Raises:
            RenderError: the tokenizer's vocabulary produces a control token from ordinary text.
        """
        text = _LONE_SURROGATE.sub("\ufffd", text)
        ids: list[int] = []
        start = 0
        for space in [*self._space_pattern.finditer(text), None]:
            if piece := text[start : space.start() if space else len(text)]:
                ids += self._plain_tokenizer.encode(piece, add_special_tokens=False).ids
            if space:
                ids.append(self._space_ids[space.group()])
                start = space.end()
        if not set(self._control_ids.values()).isdisjoint(ids):
            raise RenderError("the tokenizer encodes ordinary text as a control token; use another tokenizer")
        return ids

    def encode_with_control_tokens(self, text: str) -> list[int]:
        """Encode trusted text, keeping control tokens."""
        return self._encode_template_output(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text, with control tokens by name and white space unchanged."""
        return str(self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def render(
        self,
        turns: Sequence[Turn],
        prefill: str = "",
        limits: MediaLimits | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> RenderedPrompt:
        """Render a chat up to the start of the assistant's reply. Decodes media, which can take seconds.

        Args:
            turns: the chat, with the system message first if there is one.
            prefill: trusted text that the reply starts with, unless the template already ends with it.
            limits: media limits that override those of the model family.
            tools: definitions of tools, in the format of chat templates. All their text is untrusted.

        Raises:
            RenderError: the chat template loses or repeats a text, loses tools or their calls, or rejects the roles; or
                a role is a control token.
            MediaError: a medium cannot be read, or the model does not support its modality.
        """
        chat = TemplateChat()
        known = frozenset(word for word in SCHEMA_WORDS if not self.has_control_token(word))
        for turn in turns:
            if self._control_pattern.search(turn.role):
                raise RenderError(f"the role {turn.role!r:.80} contains a control token")
            content = "".join(self._format_piece(piece, chat) for piece in turn.pieces)
            fields = turn.fields if isinstance(turn, ToolTurn) else {}
            chat.messages.append({"role": turn.role, "content": content, **chat.add_fields(turn.role, fields)})
        chat.add_tools(tools, known)
        text = self._apply_template(chat.messages, chat.tools)
        text += "" if text.endswith(prefill) else prefill  # Templates of reasoning models may already end with it.
        unwritten = chat.check_output(text)
        token_ids = tuple(self._encode_template_output(text, chat.texts))
        self._placeholders.match_modalities(token_ids, [medium.modality for medium in chat.media])
        limits = (limits or MediaLimits()).fill_defaults(self.profile.limits)
        prepared = prepare_all_media(chat.media, self.profile, limits)
        return RenderedPrompt(token_ids, prepared, self.profile.count_prompt_tokens(token_ids, prepared), unwritten)

    def encode_end_of_turn(self) -> tuple[int, ...]:
        """Encode the text that the chat template writes after a reply, through the control token that ends the turn.

        Raises:
            RenderError: the template writes no control token there.
        """
        reply = UntrustedTexts().add("")
        text = self._apply_template([{"role": "user", "content": "a"}, {"role": "assistant", "content": reply}])
        suffix = text.partition(reply)[2]
        control = self._control_pattern.search(suffix)
        if control is None:
            raise RenderError(
                f"the chat template of {self.tokenizer.name_or_path!r} ends a reply without a control token"
            )
        return tuple(self._encode_template_output(suffix[: control.end()]))

    def drop_placeholders(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Drop the placeholder tokens of media from generated tokens: no medium belongs to them."""
        placeholders = set(self._placeholders.ids.values())
        if placeholders.isdisjoint(token_ids):
            return token_ids
        return tuple(token for token in token_ids if token not in placeholders)

    def has_control_token(self, text: str) -> bool:
        """Return whether a text contains the text of a control token."""
        return self._control_pattern.search(text) is not None

    def _format_piece(self, piece: Span | Media, chat: TemplateChat) -> str:
        """Return the text of a piece for the template: a placeholder, trusted text, or a nonce for untrusted text."""
        if isinstance(piece, Media):
            if placeholder := self.profile.placeholders.get(piece.modality):
                chat.media.append(piece)
                return placeholder.text
            if piece.modality != Modality.MOLECULE:
                supported = ", ".join(self.profile.placeholders) or "text only"
                raise MediaError(
                    f"{piece.name}: the model takes no {piece.modality} ({self.profile.name}: {supported})"
                )
            piece = Span(piece.data.decode())
        return piece.text if piece.trusted else chat.add_content(piece.text)

    def _encode_template_output(self, text: str, untrusted: UntrustedTexts | None = None) -> list[int]:
        """Split at the control tokens of `text`, replace nonces by their untrusted texts, and encode the parts."""
        token_ids: list[int] = []
        start = 0
        for control in [*self._control_pattern.finditer(text), None]:
            if part := text[start : control.start() if control else len(text)]:
                token_ids += self.encode_as_plain_text(untrusted.restore(part) if untrusted else part)
            if control:
                token_ids.append(self._control_ids[control.group()])
                start = control.end()
        return token_ids

    def _apply_template(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=True, **self.profile.template_options
            )
        except TemplateError as e:
            if len(messages) > 1 and messages[0]["role"] == "system":
                # Some families have no system role: there, the system text starts the first user message.
                system, first, *following = messages
                joined = {**first, "content": f"{system['content']}\n\n{first['content']}"}
                return self._apply_template([joined, *following], tools)
            raise RenderError(f"the chat template rejects this chat: {e}") from e
        except (TypeError, ValueError, RecursionError) as e:  # Python's own errors in the code of a template
            raise RenderError(f"the chat template cannot write this chat: {e}") from e
        assert isinstance(text, str)
        return text

    def _check_tokenizer(self) -> None:
        """Check that this class produces the tokens of the model's own template.

        Some tokenizers behave in ways that it does not reproduce, for instance joining words across control tokens. An
        error is better than prompts that silently differ from what the model was trained on.

        Raises:
            RenderError: the tokens differ.
        """
        chat = [("user", "a b  c    d\n\n e\n"), ("assistant", " a  b"), ("user", "c   d")]
        try:
            text = self._apply_template([{"role": role, "content": content} for role, content in chat])
        except RenderError:
            return  # A template that rejects this chat may still accept a judge's.
        if self._encode_template_output(text) != self.tokenizer.encode(text, add_special_tokens=False):
            raise RenderError(f"tokenizer {self.tokenizer.name_or_path!r} splits text in an unsupported way")


def _compile_alternatives(texts: Collection[str]) -> re.Pattern[str]:
    """Compile a pattern that matches any of the texts; without texts it matches nothing.

    Longer texts come first, because one text may be a prefix of another.
    """
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) if texts else r"(?!)")
