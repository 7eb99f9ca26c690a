"""Canonical form of text, and patterns of words in it: look-alike letters and invisible characters make no difference.

Unicode has many letters that look like the Latin ones, and characters that display as nothing. A reader, and a model,
may take a word that is written with them for the word that it looks like.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Letters of other scripts, in the form (capital or small) in which they look like the Latin letter or the digit. Latin
# letters with strokes, hooks and the like are found by their Unicode names, and marks above and below are dropped.
_LOOKALIKES = {
    "a": "АаΑαΛᎪꓮⲀⲁɑⱭꭤ",
    "b": "ВвЬьЪъΒβϐᏏᏴꓐⲂⲃɃƃ",
    "c": "СсϹϲᏟꓚⲤⲥςϛͻↄ",
    "d": "ԁԀᎠꓓժᏧ",
    "e": "ЕеЭэΕεΣΞϵЄєҽԐԑᎬꓰⲈⲉəƏɘ℮",
    "f": "Ϝϝꓝքƒ",
    "g": "ԌԍցᏀᏻꓖǤǥ",
    "h": "НнҺһԊԋΗᎻᏂꓧհⲎⲏћђ",
    "i": "ІіΙιɩƖꙇᎥꓲⲒⲓוⵏᛁɪ",
    "j": "ЈјͿϳᎫꓙյ",
    "k": "КкΚκϰᏦꓗⲔⲕ",
    "l": "ӀӏᏞꓡⳐⳑןاլǀⵊ",
    "m": "МмΜϺϻᎷꓟⲘⲙɯ",
    "n": "ПпИΝηΠπռոⲚⲛꓠŋ",
    "o": "ОоѲѳΟοΘθσӨөՕօᎾꓳⲞⲟסهہەഠဝⵔᴑɵ",
    "p": "РрΡρϱᏢꓑⲢⲣբþÞ",
    "q": "ԚԛզգϘϙ",
    "r": "ГгЯяΓᎡᏒꓣɼⲄⲅᴦᴙ",
    "s": "ЅѕՏꓢᏕᏚϨƧƨ",
    "t": "ТтΤτᎢꓔⲦⲧե",
    "u": "ՍսυʋцЦиЏџꓴμʊ",
    "v": "ѴѵνᏙꓦᴠ",
    "w": "ԜԝШшЩщωѡѠապᎳᏔꓪⲰⲱ",
    "x": "ХхΧχЖжꓫⲬⲭ",
    "y": "УуҮүΥγϒᎩꓬⲨⲩЧчყɣ",
    "z": "ΖζᏃꓜⲌⲍ",
    "3": "ЗзƷʒȜȝ",
}
_LETTERS = {character: letter for letter, characters in _LOOKALIKES.items() for character in characters}
_LATIN_NAME = re.compile(r"\b(?:LATIN|SYMBOL) (?:[A-Z-]+ )*?LETTER (?:[A-Z-]{2,} )*([A-Z])(?: WITH .*)?$")
_COLONS, _FILLERS = "ː˸։׃܃܄᛬∶꞉⁚", "\u115f\u1160"
# Unicode classes these apostrophes as letters, but they end a word.
_LETTER_MARK = re.compile("[\u02b9-\u02ff\u0559\u07f4\u07f5\ua78b\ua78c]")
_MIN_LONG_WORD = 6
_MAX_CACHED = 1 << 16
# Letters from the table are kept apart from Latin ones: each becomes the hieroglyph with the number of its letter.
_FIRST_FOREIGN = 0x13000
FOREIGN_LETTERS = f"{chr(_FIRST_FOREIGN + ord('a'))}-{chr(_FIRST_FOREIGN + ord('z'))}"
"""Range of the letters in a canonical line that only look like `a` to `z`, for a class of a pattern."""
_FOREIGN = r"[^\W\x00-\x7f]"
_DIGITS = {"a": "4", "b": "8", "e": "3", "g": "9", "i": "1", "l": "1", "o": "0", "q": "9", "s": "5", "t": "7", "z": "2"}
_TWINS, _PAIRS = {"i": "l", "l": "i"}, {"d": "cl", "m": "rn", "w": "vv"}
_SYMBOLS = {"$": "s", "@": "a", "!": "i", "|": "l", "€": "e"}
_SYMBOL = re.compile(r"[$@!|€](?=[\w$@!|€])")
_SPACED_LETTERS = re.compile(r"(?<!\w)\w(?!\w)(?:[^\w\n\[\]:]{1,3}\w(?!\w)){2,}")
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
_REVERSED = re.compile("\u202e([^\u202c\u2066-\u2069\u202a-\u202e]*)")
_MIRRORED = str.maketrans("[](){}<>", "][)(}{><")


def reduce_line(line: str) -> str:
    """Reduce a line to its canonical form, without its line break.

    Latin letters become small, without marks; invisible characters are dropped; brackets, colons, digits and spaces
    become ASCII ones. A letter that only looks like a Latin one becomes a stand-in that `Speller` knows.
    """
    return line.translate(_REDUCTIONS).rstrip("\n")


def list_readings(line: str) -> list[str]:
    """List the canonical forms in which a reader or a model may read a line; first by `reduce_line`.

    The other forms read symbols as letters (`U$er`), tag characters as what they encode, text after a right-to-left
    override in the order of its display, and single letters with gaps as words.
    """
    line = "".join(line.splitlines())
    readings = [reduce_line(line)]
    if not line.isascii():
        if any("\U000e0020" <= c <= "\U000e007e" for c in line):
            readings.append(reduce_line(line.translate(_TAGS)))
        if "\u202e" in line:
            readings.append(reduce_line(_REVERSED.sub(lambda m: m[1][::-1], line)))
            readings.append(reduce_line(_REVERSED.sub(lambda m: m[1][::-1].translate(_MIRRORED), line)))
    for reading in readings[:]:
        if _SYMBOL.search(reading):
            readings.append(_SYMBOL.sub(lambda m: _SYMBOLS[m[0]], reading))
    for reading in readings[:]:
        joined = _SPACED_LETTERS.sub(lambda m: re.sub(r"\W", "", m[0]), reading)
        if joined != reading:
            readings.append(joined)
    return readings


class Speller:
    """Builds patterns that match words in canonical lines.

    Args:
        loose: whether any foreign letter matches any letter. Each word is then a group, and `check_words` decides.
    """

    def __init__(self, loose: bool = False) -> None:
        self._loose = loose
        self._words: list[str] = []

    def spell(self, word: str, spaced: bool = False) -> str:
        """Build the pattern of a canonical word, with up to three marks between its letters.

        Args:
            word: letters and digits.
            spaced: whether white space may separate the letters too.
        """
        loose = self._loose and word.isascii() and len(word) > 1
        gap = r"[^\w\[\]]{0,3}+" if spaced else r"[^\w\s:\[\]]{0,3}+"
        pattern = gap.join(_build_letter_pattern(letter, loose) for letter in word)
        if not loose:
            return pattern
        self._words.append(word)
        return f"({pattern})"

    def check_words(self, match: re.Match[str]) -> bool:
        """Return whether most letters of each word are right, and the others are unknown letters of other scripts.

        In a word without Latin letters, one may be unknown if it is long: short words of other languages, such as the
        Russian "идея", consist of look-alikes by chance.
        """
        for word, text in zip(self._words, match.groups(), strict=True):
            letters = [c for c in text or "" if c.isalnum()]
            unknown = sum(c not in list_spellings(letter) for c, letter in zip(letters, word, strict=False))
            allowed = (len(word) - 1) // 2 if any(c.isascii() for c in letters) else len(word) // _MIN_LONG_WORD
            if unknown > allowed:
                return False
        return True


@cache
def list_spellings(letter: str) -> str:
    """List the characters of a canonical line that a reader may take for a letter or digit."""
    if 0 <= ord(letter) - _FIRST_FOREIGN < 128:
        letter = chr(ord(letter) - _FIRST_FOREIGN)
    if not letter.isascii():
        return letter
    if letter.isdigit():
        return letter + "".join(alike for alike, digit in _DIGITS.items() if digit == letter)
    letters = letter + _TWINS.get(letter, "")
    return letters + _DIGITS.get(letter, "") + "".join(chr(_FIRST_FOREIGN + ord(alike)) for alike in letters)


def _build_letter_pattern(letter: str, loose: bool) -> str:
    spellings = f"[{list_spellings(letter)}]"
    if loose:
        return f"(?:{spellings}|{_FOREIGN})"
    pair = "".join(f"[{list_spellings(alike)}]" for alike in _PAIRS.get(letter, ""))
    return f"(?:{spellings}|{pair})" if pair else spellings


class _Reductions(dict[int, str]):
    """Canonical text of each character, computed when it is first met."""

    def __missing__(self, code: int) -> str:
        reduced = _reduce_character(chr(code))
        if len(self) < _MAX_CACHED:  # A text may hold every character of Unicode.
            self[code] = reduced
        return reduced


_REDUCTIONS = _Reductions()


def _reduce_character(char: str) -> str:
    if len(char.splitlines()[0]) == 0:
        return "\n"
    if char.isspace() or char in "_\u2800":
        return " "
    decomposed = unicodedata.normalize("NFKD", char)
    if decomposed != char:
        return decomposed.translate(_REDUCTIONS)
    category = unicodedata.category(char)
    if category[0] in "MC" or char in _FILLERS:
        return ""
    if char in _COLONS:
        return ":"
    if _LETTER_MARK.match(char):
        return " "
    if category[0] in "LN":
        return char.casefold() if char.isascii() else _reduce_letter(char)
    return _reduce_bracket(char, category)


def _reduce_letter(char: str) -> str:
    name = unicodedata.name(char, "")
    letter = _LETTERS.get(char) or _LETTERS.get(char.casefold())
    latin = _LATIN_NAME.search(name)
    if not letter and latin:
        letter = latin[1].lower()
    if letter:
        return letter if letter.isdigit() or name.startswith("LATIN") else chr(_FIRST_FOREIGN + ord(letter))
    number = unicodedata.numeric(char, None)
    if number is not None and number.is_integer() and 0 <= number < 1000:
        return str(int(number))
    base, has_suffix, _ = name.partition(" WITH ")
    if has_suffix:  # "CYRILLIC SMALL LETTER KA WITH DESCENDER" looks like its first letter.
        try:
            return unicodedata.lookup(base).translate(_REDUCTIONS)
        except KeyError:
            pass
    return char.casefold()


def _reduce_bracket(char: str, category: str) -> str:
    """Reduce square brackets, and brackets that replace them in other scripts; other characters are unchanged."""
    if char.isascii():
        return char
    name = unicodedata.name(char, "")
    if category in ("Ps", "Pe") and not re.search("PARENTHESIS|CURLY|QUOTATION", name):
        return "[" if category == "Ps" else "]"
    if "SQUARE BRACKET" in name:
        return "[" if "LEFT" in name else "]"
    latin = _LATIN_NAME.search(name)  # letters in circles and squares, and regional indicators
    return latin[1].lower() if latin else char
