"""Size and structure of a JSON body, checked in one pass before it is parsed.

Parsing is expensive where bytes are cheap: 58 MiB of `[],` become 20 million lists, which take 2 GB and many seconds.
"""

from __future__ import annotations

import re

from flex_judge.judges.errors import RequestTooLargeError

MIB = 1 << 20
TOKENS_PER_MIB = 50_000
"""Maximum number of strings, lists, objects and commas for each MiB of text allowed.

Rows of a few words have about as many, rows with texts of a page a hundredth."""
# A string that does not end matches too: the search would otherwise start again at each quote inside it.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_DATA_URI = re.compile(rb'"data:[\w.+-]{1,40}\\?/[\w.+-]{1,80};base64,')
_STRUCTURE = (b",", b"[", b"{")


def check_structure(body: bytes, max_text_mib: int) -> None:
    """Check that a JSON body is cheap enough to parse.

    Args:
        body: the body. It need not be valid JSON.
        max_text_mib: maximum size of everything except base64 data URIs, in MiB. It also bounds the number of values.

    Raises:
        RequestTooLargeError: the body has too much text or too many values.
    """
    text_bytes, max_tokens = len(body), max_text_mib * TOKENS_PER_MIB
    tokens = position = 0
    while tokens <= max_tokens:
        start = body.find(b'"', position)
        tokens += sum(body.count(mark, position, start if start >= 0 else None) for mark in _STRUCTURE)
        if start < 0:
            break
        tokens += 1
        position = _find_string_end(body, start)
        if _DATA_URI.match(body, start):
            text_bytes -= position - start
    advice = "send several smaller requests"
    if tokens > max_tokens:
        raise RequestTooLargeError(f"the request has more than the {max_tokens} JSON values allowed; {advice}")
    if text_bytes > max_text_mib * MIB:
        raise RequestTooLargeError(
            f"the texts of the request have {text_bytes / MIB:.1f} MiB, more than the {max_text_mib} MiB allowed "
            f"(max_text_mib; media as base64 data URIs do not count); {advice}"
        )


def _find_string_end(body: bytes, start: int) -> int:
    """Find the position after a string that starts at a quote."""
    end = body.find(b'"', start + 1)
    if end >= 0 and not body.count(b"\\", end - 1, end):
        return end + 1  # The usual case, and much faster than the pattern for long media: no escape before the quote.
    string = _STRING.match(body, start)
    assert string is not None
    return string.end()
