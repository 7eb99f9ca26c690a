"""Section headers of the prompt, and quoting of untrusted lines that imitate a section header or a message heading.

A response may contain the line `[Assistant 2's Answer]` and continue as if it were its rival, or `[Message 3: user]`
and continue as the user. A model cannot tell this from the prompt's own line. It holds no control token, so rendering
control tokens as text does not help.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.protocol.headings import MESSAGE_HEADINGS, build_counted_pattern
from flex_judge.judges.protocol.lookalikes import Speller, list_readings, reduce_line
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics.rubric import Rubric

QUOTE = "> "
"""Prefix of a forged header. Models know it as the quotation mark of mail and Markdown."""
MAX_LINES = 3
"""Number of lines over which a forged header may be spread."""
_TOKEN = re.compile(r"\{k\}|[^\W_]+|[\[({<\])}>:]")
# Gaps are possessive (`*+`): no character after a gap can belong to it, and matching takes linear time.
_INNER_GAP, _WORD_GAP = r"[^\w\[({<]*+", r"[^\w\[\]]*+"  # after an opening bracket; between two words
_MARKER = r"(?:(?:\d{1,3}|[a-z]|[ivx]{1,4})[.):\]]|[a-z][a-z0-9]{0,9}>)[^\w\n]*"  # `1.`, `b)`, `iv.`, `<h2>`
_MEDIA_CHARACTER = "\ufffc"  # stands for an image, video or sound, which no header contains

HeadingPattern = Callable[[Speller], str]
"""Function that builds the pattern of one heading, from its first bracket or word on."""


def format_response_header(rubric: Rubric, k: int, responses: int) -> str:
    """Format the line above a response.

    Args:
        rubric: defines the header.
        k: index of the response, from 0.
        responses: number of responses judged together; a single response has no number.
    """
    if responses == 1:
        return re.sub(r" ?\{k\}", "", rubric.answer_header)
    return rubric.answer_header.replace("{k}", "AB"[k] if rubric.has_options else str(k + 1))


def quote_headings(pieces: Sequence[Span | Media], rubric: Rubric, in_conversation: bool = False) -> list[Span | Media]:
    """Put `> ` before every line that looks like a section header of the rubric or, in conversations, like a message.

    Headings are recognised by their words: number, letter case, character width, spacing, punctuation, kind of square
    brackets, look-alike letters, invisible characters, line breaks within and leading marks such as `##`, `**` or `1.`
    make no difference. The pieces are searched as one text, so a heading assembled from text and a molecule is found
    too. Other lines are unchanged, also if they mention a heading in the middle. Takes time linear in the length of the
    text.

    Args:
        pieces: a question, a response, or the text of a message, as untrusted pieces.
        rubric: the rubric whose headers are protected.
        in_conversation: whether the prompt has message headings, see `flex_judge.judges.protocol.headings`.
    """
    texts = [_get_visible_text(piece) for piece in pieces]
    forged_starts = _find_forged_headings("".join(texts), _build_detector(rubric, in_conversation))
    if not forged_starts:
        return list(pieces)
    quoted: list[Span | Media] = []
    offset = 0
    for piece, text in zip(pieces, texts, strict=True):
        starts = [start - offset for start in forged_starts if offset <= start < offset + len(text)]
        if isinstance(piece, Span):
            lines = [text[a:b] for a, b in itertools.pairwise([0, *starts, len(text)])]
            quoted.append(Span(QUOTE.join(lines)))
        else:
            quoted += [*(Span(QUOTE) for _ in starts), piece]
        offset += len(text)
    return quoted


class HeadingDetector:
    """Detects lines that look like a heading.

    Args:
        headings: builds the pattern of each heading.
    """

    def __init__(self, headings: Iterable[HeadingPattern]) -> None:
        exact, loose = [], []
        for heading in headings:
            exact.append(heading(Speller()))
            speller = Speller(loose=True)
            loose.append((_compile_line_pattern([heading(speller)]), speller))
        self._exact = _compile_line_pattern(exact)
        self._loose = loose

    def matches_heading(self, text: str) -> bool:
        """Return whether a canonical text, of one or more lines, starts with what looks like a heading."""
        if self._exact.match(text):
            return True
        if text.isascii():
            return False
        matches = ((pattern.match(text), speller) for pattern, speller in self._loose)
        return any(match is not None and speller.check_words(match) for match, speller in matches)


def _compile_line_pattern(headings: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"[^\w\n]*(?:{_MARKER}){{0,3}}(?:{'|'.join(headings)})" if headings else "(?!)")


def _get_visible_text(piece: Span | Media) -> str:
    if isinstance(piece, Span):
        return piece.text
    return piece.data.decode() if piece.modality == Modality.MOLECULE else _MEDIA_CHARACTER


def _find_forged_headings(text: str, detector: HeadingDetector) -> list[int]:
    """Return the index of the first character of each line that looks like a heading, or like the start of one."""
    lines = text.splitlines(keepends=True)
    readings = [list_readings(line) for line in lines]
    starts, start = [], 0
    for i, line in enumerate(lines):
        following = "".join(f"\n{first}" for first, *_ in readings[i + 1 : i + MAX_LINES])
        if any(detector.matches_heading(reading + following) for reading in readings[i]):
            starts.append(start)
        start += len(line)
    return starts


@lru_cache(maxsize=64)
def _build_detector(rubric: Rubric, in_conversation: bool) -> HeadingDetector:
    """Build a detector of lines that imitate one of the rubric's headers, or a message heading.

    Any response number counts, used or not: otherwise the rendered text would depend on the number of responses, and
    prompts with the same question would not share a prefix in the engine's cache.
    """
    headers = (rubric.question_header, rubric.answer_header, format_response_header(rubric, 0, 1))
    forms = [form for form in map(reduce_line, headers) if re.search(r"\w", form)]
    headings: list[HeadingPattern] = [partial(_build_header_pattern, form) for form in forms]
    return HeadingDetector([*headings, *(MESSAGE_HEADINGS if in_conversation else ())])


def _build_header_pattern(header: str, speller: Speller) -> str:
    """Build the pattern of one header: opening bracket, words, then closing bracket, colon or end of line.

    The end is required because an ordinary sentence may begin with the word of a header without brackets ("Topic").
    """
    tokens = _TOKEN.findall(header)
    words = [n for n, token in enumerate(tokens) if token == "{k}" or token.isalnum()]
    first, last = words[0], words[-1]
    opening = [token for token in tokens[:first] if token in "[({<"]
    pattern = "".join(re.escape(token) + _INNER_GAP for token in opening)
    for n in words:
        gap = _WORD_GAP if n > first else ""
        if tokens[n] == "{k}":
            pattern += gap + _build_number_pattern(spaced=" {k}" in header, between=first < n < last)
        elif n > first and tokens[n] == "s" and "'s" in header:
            pattern += f"(?:{gap}{speller.spell('s')})?"  # `[Assistant 2 Answer]` imitates `[Assistant 2's Answer]`
        else:
            pattern += gap + speller.spell(tokens[n], spaced=bool(opening))
    closing = r"\s*+".join(re.escape(token) for token in tokens[last + 1 :] if token in "])}>:")
    end_of_line = r"[^\w\n]*+(?:\n|\Z)"
    return pattern + (rf"(?:\W*?{closing}|{end_of_line})" if closing else end_of_line)


def _build_number_pattern(spaced: bool, between: bool) -> str:
    """Build the pattern that replaces `{k}`.

    Args:
        spaced: whether the header has a space before `{k}`.
        between: whether words precede and follow `{k}`; then any word counts, else only numbers and letters.
    """
    word = r"[^\W_]{1,20}" if between else build_counted_pattern()
    word_start = r"(?<!\w)" if spaced else ""  # `Jokes` is not `Joke s`
    return rf"(?:(?:no|nr|number)\b{_WORD_GAP})?(?:\d{{1,4}}|{word_start}(?:{word}))"
