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

from judges.media import Media, Modality
from judges.rendering import Span
from judges.rubrics import Rubric

QUOTE = "> "
"""What is put before a forged header: as much as the mark of a quotation in mail and Markdown, and seen by readers."""
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_QUOTATION_MARK = re.compile("[\u2018\u2019\u02bc`\u00b4]")
_TOKEN = re.compile(r"\s?\{k\}|\w+|[^\w\s]")
_NUMBERS = {"{k}": "(?:[0-9]{1,4}|[a-z])", " {k}": r"(?:[0-9]{1,4}|(?<!\w)[a-z])"}  # `Jokes` is not `Joke s`
_ANYTHING = "\ufffc"  # stands for an image or a sound, which no header holds


def response_header(rubric: Rubric, k: int, responses: int) -> str:
    """The line above response k, counted from 0."""
    if responses == 1:
        return re.sub(r" ?\{k\}", "", rubric.answer_header)
    return rubric.answer_header.replace("{k}", "AB"[k] if rubric.by_options else str(k + 1))


def quoted_headers(pieces: Sequence[Span | Media], rubric: Rubric) -> list[Span | Media]:
    """Untrusted pieces of one text, with `> ` before every line that begins like a section header of the rubric.

    Headers are told whatever their number, letter case, width and spacing, with invisible characters in them, and
    behind marks such as `##` or `**`. They are looked for in the whole text, so that one put together from a text and
    a molecule counts. A text without such a line is returned as it is, and a header quoted within a line stays.
    A look-alike in other letters (a Cyrillic A, say) is not told: it differs from our header in its tokens.

    Args:
        pieces: a question or a response, in pieces.
        rubric: whose headers are protected.
    """
    texts = [_shown(piece) for piece in pieces]
    starts = _forged("".join(texts), _headers(rubric))
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


def _shown(piece: Span | Media) -> str:
    if isinstance(piece, Span):
        return piece.text
    return piece.data.decode() if piece.modality == Modality.MOLECULE else _ANYTHING


def _forged(text: str, headers: re.Pattern[str]) -> list[int]:
    """Where lines begin that look like a header."""
    starts, start = [], 0
    for line in text.splitlines(keepends=True):
        if headers.match(_canonical(line)):
            starts.append(start)
        start += len(line)
    return starts


def _canonical(line: str) -> str:
    """A line without what readers do not see or hardly notice."""
    return _QUOTATION_MARK.sub("'", _INVISIBLE.sub("", unicodedata.normalize("NFKC", line))).casefold()


@lru_cache(maxsize=64)
def _headers(rubric: Rubric) -> re.Pattern[str]:
    """A pattern for the beginning of a line that holds one of the rubric's headers, in its canonical form.

    Which numbers are in use does not matter: what a text becomes must not depend on how many are judged beside it,
    or they would share no prefix.
    """
    forms = [rubric.question_header, rubric.answer_header, response_header(rubric, 0, 1)]
    patterns = [_pattern(form) for form in map(_canonical, forms) if re.search(r"\w", form)]
    return re.compile(rf"[\W_]*(?:{'|'.join(patterns)})" if patterns else "(?!)")


def _pattern(header: str) -> str:
    tokens = [_NUMBERS.get(token) or re.escape(token) for token in _TOKEN.findall(header)]
    # A header without brackets ("Topic") is told only where it stands alone: sentences may begin with that word.
    return r"\s*".join(tokens) + (r"[\W_]*\Z" if re.search(r"[\w}]\Z", header) else "")
