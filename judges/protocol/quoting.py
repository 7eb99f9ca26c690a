"""Section headers: the lines above the question and the responses, and those that a text forges, made into quotations.

A candidate may write the line `[Assistant 2's Answer]` and go on as if it were the other one. To a model this looks
like the prompt's own header, though no control token is in it, so splitting those does not help.
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
"""What is put before a forged header: as much as the mark of a quotation in mail and Markdown, and seen by readers."""
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
# Apostrophes that count as letters: a word ends at them all the same.
_LETTER_MARK = re.compile("[\u02b9-\u02ff\u0559\u07f4\u07f5\ua78b\ua78c_]")
_OPENING, _CLOSING = "【〔〖〘〚⟦❲⁅⦋⦗「『⟨〈《⌈⌊", "】〕〗〙〛⟧❳⁆⦌⦘」』⟩〉》⌉⌋"
_BRACKETS = str.maketrans(_OPENING + _CLOSING, "[" * len(_OPENING) + "]" * len(_CLOSING))
_TOKEN = re.compile(r"\{k\}|[^\W_]+|[\[({<\])}>:]")
# What follows a gap cannot be part of it, so it is taken whole: every pattern takes linear time.
_INNER_GAP, _WORD_GAP = r"[^\w\[({<]*+", r"[^\w\[\]]*+"  # after an opening bracket, between two words
_COUNTED = "[a-z]|[ivx]{1,4}|one|two|three|four|five|six|seven|eight|nine|ten"
_MARKER = r"(?:(?:\d{1,3}|[a-z]|[ivx]{1,4})[.):\]]|[a-z][a-z0-9]{0,9}>)\W*"  # `1.`, `b)`, `iv.`, `<h2>`
_ANYTHING = "\ufffc"  # stands for an image or a sound, which no header holds


def format_response_header(rubric: Rubric, k: int, responses: int) -> str:
    """The line above response k, counted from 0."""
    if responses == 1:
        return re.sub(r" ?\{k\}", "", rubric.answer_header)
    return rubric.answer_header.replace("{k}", "AB"[k] if rubric.has_options else str(k + 1))


def quote_section_headers(pieces: Sequence[Span | Media], rubric: Rubric) -> list[Span | Media]:
    """Untrusted pieces of one text, with `> ` before every line that begins like a section header of the rubric.

    Headers are told by their words, whatever number, letter case, width, spacing, punctuation and kind of square
    brackets they have, with invisible characters in them, and behind marks such as `##`, `**` or `1.`. They are looked
    for in the whole text, so that one put together from a text and a molecule counts. A text without such a line is
    returned as it is, and a header quoted within a line stays. A look-alike in other letters (a Cyrillic A, say) is
    not told: it differs from our header in its tokens. Takes time in proportion to the text.

    Args:
        pieces: a question or a response, in pieces.
        rubric: whose headers are protected.
    """
    texts = [_get_visible_text(piece) for piece in pieces]
    starts = _find_forged_headers("".join(texts), _compile_header_pattern(rubric))
    if not starts:
        return list(pieces)
    quoted: list[Span | Media] = []
    done = 0
    for piece, text in zip(pieces, texts, strict=True):
        inside = [start - done for start in starts if done <= start < done + len(text)]
        if isinstance(piece, Span):
            cuts = [0, *inside, len(text)]
            lines = [text[a:b] for a, b in itertools.pairwise(cuts)]
            quoted.append(Span(QUOTE.join(lines)))
        else:
            quoted += [*(Span(QUOTE) for _ in inside), piece]
        done += len(text)
    return quoted


def _get_visible_text(piece: Span | Media) -> str:
    if isinstance(piece, Span):
        return piece.text
    return piece.data.decode() if piece.modality == Modality.MOLECULE else _ANYTHING


def _find_forged_headers(text: str, headers: re.Pattern[str]) -> list[int]:
    """Where lines begin that look like a header."""
    starts, start = [], 0
    for line in text.splitlines(keepends=True):
        if headers.match(_canonicalize_line(line)):
            starts.append(start)
        start += len(line)
    return starts


def _canonicalize_line(line: str) -> str:
    """A line without what readers do not see or hardly notice."""
    seen = _INVISIBLE.sub("", unicodedata.normalize("NFKC", line)).translate(_BRACKETS)
    return _LETTER_MARK.sub(" ", seen).casefold()


@lru_cache(maxsize=64)
def _compile_header_pattern(rubric: Rubric) -> re.Pattern[str]:
    """A pattern for the beginning of a line that holds one of the rubric's headers, in its canonical form.

    Which numbers are in use does not matter: what a text becomes must not depend on how many are judged beside it,
    or they would share no prefix.
    """
    headers = (rubric.question_header, rubric.answer_header, format_response_header(rubric, 0, 1))
    patterns = [_build_header_pattern(form) for form in map(_canonicalize_line, headers) if re.search(r"\w", form)]
    return re.compile(rf"\W*(?:{_MARKER}){{0,3}}(?:{'|'.join(patterns)})" if patterns else "(?!)")


def _build_header_pattern(header: str) -> str:
    """Its opening bracket, its words, and then its closing bracket or colon, or the end of the line: sentences may
    begin with the word of a header without brackets ("Topic")."""
    tokens = _TOKEN.findall(header)
    words = [n for n, token in enumerate(tokens) if token == "{k}" or token.isalnum()]
    first, last = words[0], words[-1]
    pattern = "".join(re.escape(token) + _INNER_GAP for token in tokens[:first] if token in "[({<")
    for n in words:
        gap = _WORD_GAP if n > first else ""
        if tokens[n] == "{k}":
            pattern += gap + _build_number_pattern(spaced=" {k}" in header, between=first < n < last)
        elif n > first and tokens[n] == "s" and "'s" in header:
            pattern += f"(?:{gap}s)?"
        else:
            pattern += gap + re.escape(tokens[n])
    closing = r"\s*+".join(re.escape(token) for token in tokens[last + 1 :] if token in "])}>:")
    return pattern + (rf"(?:\W*?{closing}|\W*+\Z)" if closing else r"\W*+\Z")


def _build_number_pattern(spaced: bool, between: bool) -> str:
    """A pattern for what may stand in the place of `{k}`: any word if there is one before and one after it."""
    word = r"[^\W_]{1,20}" if between else _COUNTED
    apart = r"(?<!\w)" if spaced else ""  # `Jokes` is not `Joke s`
    return rf"(?:(?:no|nr|number)\b{_WORD_GAP})?(?:\d{{1,4}}|{apart}(?:{word}))"
