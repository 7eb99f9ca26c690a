"""Texts compared: whether two are nearly the same, and whether a prompt has been seen before."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence

from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Content, Message, split_content

SHINGLE = 5
"""Characters of a shingle."""
_HALF = re.compile("[\ud800-\udfff]")


def normalise_text(text: str) -> str:
    """A text without what seldom makes a difference: letter case, white space, compatibility forms of characters."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def compute_similarity(one: str, other: str) -> float:
    """How alike two texts are: the Jaccard index of their sets of shingles of five characters (Broder 1997), 0 to 1.

    Texts are normalised first. Takes time in proportion to their lengths.
    """
    a, b = _split_shingles(normalise_text(one)), _split_shingles(normalise_text(other))
    return len(a & b) / len(a | b)


def _split_shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def replace_surrogates(text: str) -> str:
    """A text with a replacement character for each half of a surrogate pair, which neither UTF-8 nor Arrow takes."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)


def strip_response(content: Content) -> Content:
    """What two answers have in common if they count as the same: their text but for white space around it."""
    return content.strip() if isinstance(content, str) else content


def is_empty_response(content: Content) -> bool:
    """Whether an answer has neither text nor media."""
    return not any(isinstance(part, Media) or part.strip() for part in split_content(content))


def compute_prompt_digest(prompt: Sequence[Message]) -> str:
    """Sixteen hex digits (8 bytes) that prompts with the same normalised texts and the same media share.

    Two different prompts share them by chance too: among a million, about once in 37 million runs.
    """
    digest = hashlib.sha256()
    for message in prompt:
        for part in (f"{message.role}:", *split_content(message.content)):
            said = normalise_text(part) if isinstance(part, str) else f"{part.modality}:{part.digest}"
            digest.update(said.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def compute_seeded_hash(seed: int, id: str, *contents: Content) -> str:
    """A lot: hex digits that depend on what is given alone, the same in every process."""
    told = [[part if isinstance(part, str) else part.digest for part in split_content(content)] for content in contents]
    return hashlib.sha256(json.dumps([seed, id, told]).encode()).hexdigest()


class SeenPrompts:
    """Tells prompts that have occurred before, under another id: the first id keeps a prompt.

    For whoever sees the prompts, or the rows of their pairs, of a whole run in their order. Rows with one id must
    follow each other. Holds 8 bytes of each prompt, about 70 with what Python adds: 70 MB for a million.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._last: tuple[str, str] | None = None
        self._again = False

    def is_repeat(self, digest: str, id: str) -> bool:
        """Whether the prompt is another's; to be asked once for each row.

        Args:
            digest: see `prompt_digest`; rows of pairs have it in their provenance.
            id: of the prompt.
        """
        if (digest, id) != self._last:
            number = int(digest, 16)
            self._again = number in self._seen
            self._seen.add(number)
            self._last = digest, id
        return self._again
