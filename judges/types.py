"""Data type of inputs: the comparison. Plain, frozen and picklable, without any model library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flex_judge.judges.conversations.messages import (
    Content,
    Message,
    Part,
    Response,
    ToolCall,
    Trajectory,
    View,
    content_to_json,
    content_to_text,
    has_media,
    split_content,
)
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.types import Media, Modality

__all__ = [
    "MAX_SAMPLE_INDEX",
    "Comparison",
    "Content",
    "Message",
    "Part",
    "Response",
    "ToolCall",
    "Trajectory",
    "View",
    "content_to_text",
    "split_content",
]

MAX_SAMPLE_INDEX = (1 << 16) - 1
"""Maximum sample index (16 bits)."""


@dataclass(frozen=True)
class Comparison:
    """One question and the responses to judge together: one (pointwise), two (pairwise) or more (listwise).

    Example:
        >>> Comparison.of("What is 2 + 3?", "It is 5.", "It is 6.").responses
        ('It is 5.', 'It is 6.')
    """

    id: str
    """Id of the comparison, unique within its run; judgments are matched to it by id, never by position."""
    prompt: tuple[Message, ...]
    """The conversation; its last message is the question."""
    responses: tuple[Response, ...]
    """Candidate answers."""
    rubric: str = "general"
    """Name of the rubric, or the path of its file."""
    sample_index: int = 0
    """Index of this judgment among repeated judgments of the same comparison, from 0 to 65535. Another index gives
    other votes, see `VoteLoop`."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample_index <= MAX_SAMPLE_INDEX:
            raise UsageError(f"sample_index must be from 0 to {MAX_SAMPLE_INDEX}, not {self.sample_index}")

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[Any],
        *responses: Any,
        images: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        audios: Sequence[Any] = (),
        tools: Any = None,
        view: View = "full",
        rubric: str = "general",
        id: str = "",
        sample_index: int = 0,
        reader: ConversationReader | None = None,
    ) -> Comparison:
        """Create a comparison from strings or from lists of messages.

        Args:
            prompt: text or messages in OpenAI's format: `role`, `content` (text, null, or a list of parts such as
                `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`, `{"type": "image_url", ...}` or a
                `Media`), `tool_calls`, `name`, `tool_call_id` and `reasoning_content`.
            *responses: candidates; each is text, a `Media`, a list of parts, or messages. Several messages, and
                messages with tool calls, are a `Trajectory`.
            images: images of the prompt (paths, bytes, data URIs, PIL images). Parts `{"type": "image"}` without an
                image of their own take them in order, or marks `<image>` in the text; otherwise they are put before the
                question. Null entries are skipped.
            videos: videos of the prompt, in the same way.
            audios: audio clips of the prompt, in the same way.
            tools: definitions of the tools that the responses could call.
            view: `final` shows the judge only the final answer of a trajectory.
            rubric: name of a rubric, or the path of its file.
            id: id of the comparison within its run.
            sample_index: index of this judgment among repeated judgments of the comparison.
            reader: reads prompt and responses; the default opens local files.

        Raises:
            UsageError: a prompt or response has an unsupported type, or the sample index is out of range.
            MediaError: a medium cannot be read.
        """
        reader = reader or ConversationReader(open_local_media)
        sources = {Modality.IMAGE: images, Modality.VIDEO: videos, Modality.AUDIO: audios}
        media = {m: {f"{m}s[{i}]": source for i, source in enumerate(values)} for m, values in sources.items()}
        messages = reader.read_prompt(prompt, media, tools)
        name = "response" if len(responses) == 1 else "responses[{}]"
        contents = tuple(reader.read_response(r, view, name.format(i)) for i, r in enumerate(responses))
        return cls(id, messages, contents, rubric=rubric, sample_index=sample_index)

    def permute_responses(self, order: Sequence[int]) -> Comparison:
        """Return the comparison with response `order[k]` in place k."""
        return replace(self, responses=tuple(self.responses[i] for i in order))

    def swap_responses(self) -> Comparison:
        """Return the comparison with its responses in reverse order."""
        return self.permute_responses(range(len(self.responses))[::-1])

    @property
    def has_media(self) -> bool:
        """Whether the prompt or a response contains media."""
        parts = (part for response in self.responses for part in split_content(response))
        return has_media(self.prompt) or any(isinstance(part, Media) for part in parts)

    @property
    def text_length(self) -> int:
        """Number of characters of all texts, without roles, names and tool definitions."""
        messages = (*self.prompt, *(Message("assistant", r) for r in self.responses if not isinstance(r, Trajectory)))
        for response in self.responses:
            messages += response.messages if isinstance(response, Trajectory) else ()
        return sum(message.text_length for message in messages)

    @property
    def is_conversation(self) -> bool:
        """Whether the judge is shown roles: several messages, tool calls or a trajectory."""
        is_single_turn = len(self.prompt) == 1 and self.prompt[0].is_plain
        return not is_single_turn or any(isinstance(response, Trajectory) for response in self.responses)

    @cached_property  # used by every vote, and responses can be long
    def digest(self) -> str:
        """SHA-256 hex digest of rubric, prompt, media, responses and sample index, but not of the id."""
        fields: list[Any] = [self.rubric, self._prompt_to_json(), [content_to_json(r) for r in self.responses]]
        if self.sample_index:  # Index 0 is left out, so that digests from before sample indices existed stay valid.
            fields.append(self.sample_index)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    @cached_property
    def prompt_digest(self) -> str:
        """SHA-256 hex digest of rubric, prompt and its media, which all candidates of a question share."""
        return hashlib.sha256(json.dumps([self.rubric, self._prompt_to_json()]).encode()).hexdigest()

    def _prompt_to_json(self) -> list[list[Any]]:
        return [message.to_json() for message in self.prompt]
