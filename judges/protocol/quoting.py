"""Section headers of the prompt, and quoting of lines in untrusted text that imitate them.

A response may contain the line `[Assistant 2's Answer]` and continue as if it were its rival. A model cannot tell this
from the prompt's own header. It holds no control token, so rendering control tokens as text does not help.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics.rubric import Rubric

QUOTE = "> "
"""Prefix of a forged header. Models know it as the quotation mark of mail and Markdown."""
# Control, format and filler characters that display as nothing, so that they could hide a header from a comparison.
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# Unicode classes these apostrophes as letters, but they end a word.
_LETTER_MARK = re.compile("[\u02b9-\u02ff\u0559\u07f4\u07f5\ua78b\ua78c_]")
_OPENING, _CLOSING = "【〔〖〘〚⟦❲⁅⦋⦗「『⟨〈《⌈⌊", "】〕〗〙〛⟧❳⁆⦌⦘」』⟩〉》⌉⌋"
_BRACKETS = str.maketrans(_OPENING + _CLOSING, "[" * len(_OPENING) + "]" * len(_CLOSING))
_TOKEN = re.compile(r"\{k\}|[^\W_]+|[\[({<\])}>:]")
# Gaps are possessive (`*+`): no character after a gap can belong to it, and matching takes linear time.
_INNER_GAP, _WORD_GAP = r"[^\w\[({<]*+", r"[^\w\[\]]*+"  # after an opening bracket; between two words
_COUNTED = "[a-z]|[ivx]{1,4}|one|two|three|four|five|six|seven|eight|nine|ten"
_MARKER = r"(?:(?:\d{1,3}|[a-z]|[ivx]{1,4})[.):\]]|[a-z][a-z0-9]{0,9}>)\W*"  # `1.`, `b)`, `iv.`, `<h2>`
_MEDIA_CHARACTER = "\ufffc"  # stands for an image, video or sound, which no header contains


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


def quote_section_headers(pieces: Sequence[Span | Media], rubric: Rubric) -> list[Span | Media]:
    """Put `> ` before every line that looks like a section header of the rubric.

    Headers are recognised by their words: number, letter case, character width, spacing, punctuation, kind of square
    brackets, invisible characters and leading marks such as `##`, `**` or `1.` make no difference. The pieces are
    searched as one text, so a header assembled from text and a molecule is found too. Other lines are unchanged, also
    if they mention a header in the middle. Look-alikes in other letters (a Cyrillic A) are not recognised; their tokens
    differ from the header's. Takes time linear in the length of the text.

    Args:
        pieces: a question or a response, as untrusted pieces.
        rubric: the rubric whose headers are protected.
    """
    texts = [_get_visible_text(piece) for piece in pieces]
    forged_starts = _find_forged_headers("".join(texts), _compile_header_pattern(rubric))
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


def _get_visible_text(piece: Span | Media) -> str:
    if isinstance(piece, Span):
        return piece.text
    return piece.data.decode() if piece.modality == Modality.MOLECULE else _MEDIA_CHARACTER


def _find_forged_headers(text: str, headers: re.Pattern[str]) -> list[int]:
    """Return the index of the first character of each line that looks like a header."""
    starts, start = [], 0
    for line in text.splitlines(keepends=True):
        if headers.match(_canonicalize_line(line)):
            starts.append(start)
        start += len(line)
    return starts


def _canonicalize_line(line: str) -> str:
    """Remove differences that readers do not see or hardly notice."""
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFKC", line)).translate(_BRACKETS)
    return _LETTER_MARK.sub(" ", visible).casefold()


@lru_cache(maxsize=64)
def _compile_header_pattern(rubric: Rubric) -> re.Pattern[str]:
    """Compile a pattern for the start of a canonical line that imitates one of the rubric's headers.

    The pattern matches any response number, used or not: otherwise the rendered text would depend on the number of
    responses, and prompts with the same question would not share a prefix in the engine's cache.
    """
    headers = (rubric.question_header, rubric.answer_header, format_response_header(rubric, 0, 1))
    patterns = [_build_header_pattern(form) for form in map(_canonicalize_line, headers) if re.search(r"\w", form)]
    return re.compile(rf"\W*(?:{_MARKER}){{0,3}}(?:{'|'.join(patterns)})" if patterns else "(?!)")


def _build_header_pattern(header: str) -> str:
    """Build the pattern of one header: opening bracket, words, then closing bracket, colon or end of line.

    The end is required because an ordinary sentence may begin with the word of a header without brackets ("Topic").
    """
    tokens = _TOKEN.findall(header)
    words = [n for n, token in enumerate(tokens) if token == "{k}" or token.isalnum()]
    first, last = words[0], words[-1]
    pattern = "".join(re.escape(token) + _INNER_GAP for token in tokens[:first] if token in "[({<")
    for n in words:
        gap = _WORD_GAP if n > first else ""
        if tokens[n] == "{k}":
            pattern += gap + _build_number_pattern(spaced=" {k}" in header, between=first < n < last)
        elif n > first and tokens[n] == "s" and "'s" in header:
            pattern += f"(?:{gap}s)?"  # `[Assistant 2 Answer]` imitates `[Assistant 2's Answer]` well enough
        else:
            pattern += gap + re.escape(tokens[n])
    closing = r"\s*+".join(re.escape(token) for token in tokens[last + 1 :] if token in "])}>:")
    return pattern + (rf"(?:\W*?{closing}|\W*+\Z)" if closing else r"\W*+\Z")


def _build_number_pattern(spaced: bool, between: bool) -> str:
    """Build the pattern that replaces `{k}`.

    Args:
        spaced: whether the header has a space before `{k}`.
        between: whether words precede and follow `{k}`; then any word counts, else only numbers and letters.
    """
    word = r"[^\W_]{1,20}" if between else _COUNTED
    word_start = r"(?<!\w)" if spaced else ""  # `Jokes` is not `Joke s`
    return rf"(?:(?:no|nr|number)\b{_WORD_GAP})?(?:\d{{1,4}}|{word_start}(?:{word}))"
