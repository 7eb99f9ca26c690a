"""Normal forms of texts: what a reader sees, and the same without letter case and layout.

Equal are texts that differ in what a reader does not see: kinds and runs of white space, line ends, invisible
characters, composed and decomposed accents, ligatures, and the hyphen-minus written for a minus or a hyphen.
Different are texts that differ in what a reader sees: letter case, punctuation, `x²` and `x2`, indentation, and white
space inside code.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Soft hyphen, grapheme joiner, vowel separator, zero-width space, word joiner, byte-order mark, invisible operators,
# interlinear annotations, and control characters without the white space among them.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb]")
# Joiners shape Arabic and Indic letters and join emoji; between other characters they show nothing. Variation selectors
# show nothing after ASCII letters, and tags nothing outside a flag.
_JOINER = re.compile(
    "(?<![\u0590-\u1fff\u203c-\uffff\U00010000-\U0010ffff])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\u058f])"
)
_SELECTOR = re.compile(
    "(?:(?<=[^\\W\\d_])(?<=[\x00-\x7f])|(?<=[\\s\ufe00-\ufe0f\U000e0100-\U000e01ef]))[\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_TAGS = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0000-\U000e007f]+")
_DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069]")
_OVERRIDES = "\u202d\u202e"
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# The last four are letters by category, but blank in every font.
_BLANKS = re.compile("[\x1f\xa0\u1680\u2000-\u200a\u202f\u205f\u3000\u115f\u1160\u2800\u3164\uffa0]")
_LATIN_LIGATURES = range(0xFB00, 0xFB07)
_PRESENTATION = ("<initial>", "<medial>", "<final>", "<isolated>", "<noBreak>")
"""Tags of compatibility forms that look like the ordinary characters."""
_DISTINCT = ("<super>", "<sub>", "<fraction>", "<circle>")
"""Tags of compatibility forms that mean something else than the ordinary characters."""
_HYPHENS = str.maketrans("\u2010\u2212", "--")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")
_SPACES = re.compile(r"[ \t]+")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


def normalise_layout(text: str) -> str:
    """Normalise the characters of a text, and its white space outside of code; strip the text.

    Runs of spaces become one space and runs of blank lines one blank line. Indentation stays, and so does white space
    in code spans and fenced code blocks, except at line ends.
    """
    blocks: list[str] = []
    lines: list[str] = []
    fence = ""
    for line in normalise_characters(text).strip().split("\n"):
        mark = _FENCE.match(line)
        if fence:
            lines.append(line.rstrip())
            if mark and mark[1].startswith(fence) and not line.strip(" " + fence[0]):
                blocks.append("\n".join(lines))
                lines, fence = [], ""
        elif mark:
            blocks.append(_BLANK_LINES.sub("\n\n", "\n".join(lines)))
            lines, fence = [line.rstrip()], mark[1]
        else:
            lines.append(_collapse_spaces(line))
    joined = "\n".join(lines)
    blocks.append(joined if fence else _BLANK_LINES.sub("\n\n", joined))
    return "\n".join(blocks).strip()


def normalise_characters(text: str) -> str:
    """Normalise characters that look the same: spaces, line ends, hyphens, accents, ligatures. Drop invisible ones.

    Spaces of all kinds become the ASCII space, and line ends the line feed; runs stay.
    """
    text = remove_invisible(_LINE_ENDS.sub("\n", text))
    if text.isascii():
        return text
    text = "".join(char if char.isascii() else _replace_presentation_form(char) for char in _BLANKS.sub(" ", text))
    return unicodedata.normalize("NFC", text).translate(_HYPHENS)


def fold_text(text: str) -> str:
    """Normalise a text for comparisons that ignore letter case, width and font of characters, and all white space runs.

    Superscripts, subscripts, fractions and numbers in circles stay, because `2²` is not `22`.
    """
    text = normalise_characters(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(char if char.isascii() else _fold_form(char) for char in text))
    return " ".join(text.casefold().split())


def remove_invisible(text: str) -> str:
    """Remove characters that show nothing: zero-width and control characters, soft hyphens, and direction marks.

    Characters that change how their neighbours look are kept: joiners in Arabic, Indic and emoji sequences, variation
    selectors after other symbols, and direction marks in a text with letters that run from right to left.
    """
    text = _INVISIBLE.sub("", text)
    if text.isascii():
        return text
    if _DIRECTION_MARKS.search(text) and not any(_is_right_to_left(char) for char in text):
        text = _DIRECTION_MARKS.sub("", text)
    # Removing one character can leave another one beside a neighbour that it does not change.
    while (shorter := _TAGS.sub("", _SELECTOR.sub("", _JOINER.sub("", text)))) != text:
        text = shorter
    return text


def _collapse_spaces(line: str) -> str:
    """Collapse runs of spaces inside a line, but not its indentation, nor those in a code span."""
    body = line.lstrip(" \t")
    indentation = line[: len(line) - len(body)]
    pieces, end = [], 0
    for span in _CODE_SPAN.finditer(body):
        pieces += [_SPACES.sub(" ", body[end : span.start()]), span[0]]
        end = span.end()
    return (indentation + "".join(pieces) + _SPACES.sub(" ", body[end:])).rstrip()


@lru_cache(maxsize=4096)
def _replace_presentation_form(char: str) -> str:
    """Replace a form of a character that looks like the ordinary one, such as a ligature or a non-breaking hyphen."""
    is_form = ord(char) in _LATIN_LIGATURES or unicodedata.decomposition(char).startswith(_PRESENTATION)
    return unicodedata.normalize("NFKC", char) if is_form else char


@lru_cache(maxsize=4096)
def _fold_form(char: str) -> str:
    is_distinct = unicodedata.decomposition(char).startswith(_DISTINCT)
    return char if is_distinct else unicodedata.normalize("NFKC", char)


def _is_right_to_left(char: str) -> bool:
    return char > "\u0590" and (char in _OVERRIDES or unicodedata.bidirectional(char) in ("R", "AL"))
