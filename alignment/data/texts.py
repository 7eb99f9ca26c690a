"""Comparison of texts and answers: equality to a reader, similarity, and detection of repeated prompts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from flex_judge.alignment.data.normal_forms import fold_text, normalise_layout
from flex_judge.judges.conversations.messages import content_to_json
from flex_judge.judges.conversations.openai import definition_to_openai, normalise_arguments, normalise_trajectory
from flex_judge.judges.types import Message, Response, Trajectory, split_content

EqualityKey = tuple[str, ...]
"""Hashable normal form of a content: its texts as `text:...` and its media as `image:DIGEST`, in order."""
SHINGLE = 5
"""Length of a shingle in characters."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def compute_similarity(first: str, second: str) -> float:
    """Compute the similarity of two texts from 0 to 1, after normalisation.

    It is the Jaccard index of their sets of five-character shingles (Broder 1997). Takes time linear in the lengths.
    """
    a, b = _split_shingles(fold_text(first)), _split_shingles(fold_text(second))
    return len(a & b) / len(a | b)


def _split_shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which neither UTF-8 nor Arrow can encode, by the replacement character."""
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def make_equality_key(content: Response) -> EqualityKey:
    """Return the normal form of a content, which is equal for contents that a reader cannot tell apart.

    Adjacent texts are one text. White space around a text is left out, and so is a text of white space only.
    Trajectories differ by their roles, calls, results and reasoning, but not by the ids of calls.
    """
    if isinstance(content, Trajectory):
        return tuple(_make_message_key(message) for message in normalise_trajectory(content).messages)
    key: list[str] = []
    texts: list[str] = []
    for part in (*split_content(content), None):
        if isinstance(part, str):
            texts.append(part)
            continue
        if text := normalise_layout("".join(texts)):
            key.append(f"text:{text}")
        texts = []
        if part is not None:
            key.append(f"{part.modality}:{part.digest}")
    return tuple(key)


def _make_message_key(message: Message) -> str:
    calls = [[call.name, call.arguments] for call in message.tool_calls]
    content = make_equality_key(message.content)
    return json.dumps([message.role, message.name, content, calls, normalise_layout(message.reasoning)])


def is_empty_response(response: Response) -> bool:
    """Return whether a response has no visible text, no media and no tool call; reasoning alone is no answer."""
    if isinstance(response, Trajectory):
        return all(is_empty_response(m.content) and not m.tool_calls for m in response.messages)
    return not make_equality_key(response)


def compute_prompt_digest(prompt: Sequence[Message]) -> str:
    """Compute a digest (16 hex digits) that is equal for prompts with the same folded texts and the same media.

    Tool calls, names, reasoning and tool definitions count as well; ids of calls do not.

    The probability of a collision among a million different prompts is 3e-8.
    """
    digest = hashlib.sha256()
    for message in prompt:
        for part in (f"{message.role}:", *split_content(message.content)):
            text = fold_text(part) if isinstance(part, str) else f"{part.modality}:{part.digest}"
            digest.update(text.encode(errors="surrogatepass") + b"\0")
        if not message.is_plain:
            calls = [[call.name, normalise_arguments(call.arguments)] for call in message.tool_calls]
            tools = [json.dumps(definition_to_openai(tool), sort_keys=True) for tool in message.tools]
            fields = json.dumps([message.name, calls, message.reasoning, tools])
            digest.update(b"\1" + fold_text(fields).encode() + b"\0")
    return digest.hexdigest()[:16]


def compute_seeded_hash(seed: int, id: str, *contents: Response) -> str:
    """Hash a seed, an id and contents to hex digits, for reproducible random order in any process."""
    plain_contents = [
        content_to_json(normalise_trajectory(content))
        if isinstance(content, Trajectory)
        else [part if isinstance(part, str) else part.digest for part in split_content(content)]
        for content in contents
    ]
    return hashlib.sha256(json.dumps([seed, id, plain_contents]).encode()).hexdigest()


class SeenPrompts:
    """Detects prompts that occur again under another id; the first id keeps the prompt.

    Pass the rows in the order of the run; rows of one id must be adjacent. Uses about 70 bytes of memory per prompt.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._last: tuple[str, str] | None = None
        self._is_repeat = False

    def is_repeat(self, digest: str, id: str) -> bool:
        """Add a prompt and return whether it belongs to an earlier id. Call it for every row, in order.

        Args:
            digest: result of `compute_prompt_digest`; rows of pairs have it in their provenance.
            id: id of the prompt.
        """
        # Rows of one id are adjacent, so the result for the last id is enough; a set of all ids would need more memory.
        if (digest, id) != self._last:
            number = int(digest, 16)
            self._is_repeat = number in self._seen
            self._seen.add(number)
            self._last = digest, id
        return self._is_repeat
