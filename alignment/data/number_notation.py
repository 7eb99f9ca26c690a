"""Rewriting of texts so that numbers in Unicode, LaTeX and Markdown notation become plain ones."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from flex_judge.alignment.data.normal_forms import remove_invisible

MINUS = "\u2212"
"""The minus sign, which is kept apart from the hyphen: a hyphen before a space is a bullet."""
CURRENCY = "$¢£¤¥\u20a0-\u20c0﹩＄￠￡￥￦"
"""Currency symbols, for a character class of a regular expression."""
SYMBOLIC = "π"
"""Character that replaces a symbolic quantity, such as a fraction of variables."""
BLANK = "§"
"""Character that replaces what has digits but is no number: dates, times, versions, exponents of variables."""

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("－﹣➖", MINUS),
        **dict.fromkeys("\u2010\u2011", "-"),
        **dict.fromkeys("\u2012\ufe58", "\u2013"),
        "\u2015": "\u2014",
        **dict.fromkeys("＋﬩➕", "+"),
        **dict.fromkeys("·⋅∙✕✖", "×"),
        **dict.fromkeys("⁄∕／", "/"),
        **dict.fromkeys("٪％﹪", "%"),
        **dict.fromkeys("’ʼ′＇´", "'"),
        "\u066b": ".",  # Arabic decimal separator
        "\u066c": ",",  # Arabic thousands separator
        "．": ".",
        "。": ". ",
        "、": ";",
        "：": ":",
        "＝": "=",
        "（": "(",
        "）": ")",
        "＊": "*",
        "＾": "^",
    }
)
_FULLWIDTH_COMMA = re.compile(r"(?<=\d)，(?=\d{3}(?!\d))")
_SUPERSCRIPT = re.compile("([⁺⁻]?)([⁰¹²³⁴-⁹]+)")
_SUBSCRIPT = re.compile("[₊₋]?[₀-₉]+")
_VULGAR = re.compile("(?:(\\d) ?)?([¼-¾⅐-⅞↉])")
_WORD_MINUS = re.compile(rf"\b(?:minus|negative)\s+(?=[\d.{CURRENCY}])", re.IGNORECASE)

_LATEX_REMOVED = re.compile(r"\\!|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|nolimits)(?![a-zA-Z])")
_LATEX_SPACES = re.compile(r"\\[,;: ]|(?<!~)~(?!~)|\\(?:thinspace|medspace|enspace|space|quad|qquad)(?![a-zA-Z])|\\\\")
_LATEX_SYMBOLS = {
    **dict.fromkeys(("times", "cdot", "ast"), "×"),
    **dict.fromkeys(("approx", "simeq", "sim", "equiv", "le", "leq", "ge", "geq"), "≈"),
    **dict.fromkeys(("circ", "degree"), "°"),
    **dict.fromkeys(("infty", "sqrt", "binom", "overline", "bar", "log", "ln", "exp", "sin", "cos", "tan"), SYMBOLIC),
    "div": "÷",
    "pi": SYMBOLIC,
    "pm": "±",
}
_LATEX_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_PLAIN = r"[-+]?\d+(?:[.,]\d+)*"
_NUMERIC_FRACTION = re.compile(
    rf"(?:(\d) {{0,3}})?\\[dtc]?frac {{0,3}}(?:\{{ {{0,3}}({_PLAIN}) {{0,3}}\}}|(\d))"
    rf" {{0,3}}(?:\{{ {{0,3}}({_PLAIN}) {{0,3}}\}}|(\d))"
)
_ROOT = re.compile(r"\\sqrt {0,3}(?:\[[^\]{}]{0,20}\])? {0,3}(?:\{[^{}]*\}|\w)|√ {0,3}(?:\([^()]*\)|[\d.,]+|\w)")
_SYMBOLIC_GROUPS = re.compile(
    r"\\(?:[dtc]?frac|d?binom) {0,3}\{[^{}]*\} {0,3}\{[^{}]*\}"
    r"|(?:(?<![\d.])\d{1,30}(?:\.\d{0,30})?)?\\(?:overline|bar) {0,3}\{[^{}]*\}"
)
_COMMAND_WITH_TEXT = re.compile(r"\\(?!(?:[dtc]?frac|d?binom|sqrt|overline|bar)\b)[a-zA-Z]+\*?\s{0,3}\{([^{}]*)\}")
_EXPONENT = re.compile(rf"\^\s*(?:\{{\s*([-+{MINUS}]?)(\d+)\s*\}}|\(\s*([-+{MINUS}]?)(\d+)\s*\))")
_OTHER_EXPONENT = re.compile(r"\^\s*(?:\{[^{}]*\}|[-+]?\d{1,30}\.\d+)")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_LATEX_SUBSCRIPT = re.compile(r"_\s*\{[^{}]*\}|(?<=[A-Za-z)])_\d+(?![\d_])")
_DELIMITERS = re.compile(r"\\[()\[\]]")
_EMPHASIS = re.compile(r"(?<![A-Za-z0-9_])_{1,3}(?=\S)|(?<=[^\s_])_{1,3}(?![A-Za-z0-9_])")
_SPACED_SLASH = re.compile(r"(?<=\d) ?/ ?(?=\d)")
_POWER = re.compile(rf"(?<=\d)\*\*(?=[-+{MINUS}]?\d)")
_TIMES_TEN = re.compile(rf"(?<=\d)\s?[×xX*]\s?10\s?\^\s?([-+{MINUS}]?)(\d+)")
_VARIABLE_EXPONENT = re.compile(rf"(?:(?<=[^\W\d_])|(?<=[)\]}}]))\s?\^\s?[-+{MINUS}]?\w+")
_NOT_NUMBERS = re.compile(
    r"""(?<![\w.])(?:
      \d{4}([-/.])\d{1,2}\1\d{1,2}(?!\d)(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?  # 2024-05-01
    | \d{1,2}([-/.])\d{1,2}\2\d{4}(?![\d.])  # 01/05/2024
    | \d{4}-0[1-9](?![\d.,])  # 2024-05
    | \d+(?::\d+)+(?:\.\d+)?  # 12:30 and 3:1
    | 0[xX][0-9a-fA-F]+\b
    ) | (?:±|\+/-)\s?\d[\d.,]*  # 5 ± 0.1
    """,
    re.VERBOSE,
)


def simplify_notation(text: str) -> str:
    """Rewrite a text so that its numbers consist of ASCII digits and separators.

    The result is for finding numbers only; other parts of the text are not preserved. Exponents are written as `e5`
    for powers of ten behind a number, else as `^5`; fractions as `1/2`, mixed numbers as `1 1/2`.
    """
    text = remove_invisible(text)
    if not text.isascii():
        text = _rewrite_unicode(text)
    if "\\" in text:
        text = _rewrite_latex(text)
    text = _EXPONENT.sub(_write_exponent, text.replace("{,}", ",").replace("{.}", "."))
    text = _LATEX_SUBSCRIPT.sub("", _OTHER_EXPONENT.sub("^x", text))
    text = _ROOT.sub(SYMBOLIC, _EMPHASIS.sub(" ", _POWER.sub("^", text)))
    text = _SPACED_SLASH.sub("/", text)
    text = _TIMES_TEN.sub(lambda m: f"e{m[1].replace(MINUS, '-')}{m[2]}", text)
    text = _NOT_NUMBERS.sub(BLANK, _VARIABLE_EXPONENT.sub("", text))
    return _WORD_MINUS.sub(f"{MINUS} ", text)


def _rewrite_unicode(text: str) -> str:
    """Rewrite digits, signs, separators, superscripts and vulgar fractions."""
    text = "".join(char if char.isascii() else _replace_character(char) for char in text.translate(_CHARACTERS))
    text = _FULLWIDTH_COMMA.sub(",", text).replace("，", ";")
    text = _SUPERSCRIPT.sub(lambda m: f"^{m[1].translate(_SIGNS)}{unicodedata.normalize('NFKC', m[2])}", text)
    text = _SUBSCRIPT.sub("", text)
    return _VULGAR.sub(lambda m: f"{m[1]} {_spell_fraction(m[2])}" if m[1] else _spell_fraction(m[2]), text)


_SIGNS = str.maketrans({"⁺": "", "⁻": "-"})


def _spell_fraction(char: str) -> str:
    """Spell a vulgar fraction such as `½` as `1/2`."""
    return unicodedata.normalize("NFKC", char).replace("\u2044", "/")


@lru_cache(maxsize=4096)
def _replace_character(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    return " " if unicodedata.category(char) == "Zs" else char


def _rewrite_latex(text: str) -> str:
    """Rewrite LaTeX commands. The texts inside commands stay."""
    text = _LATEX_SPACES.sub(" ", _LATEX_REMOVED.sub("", text.replace("{,}", ",").replace("{.}", ".")))
    text = _DELIMITERS.sub(" ", _DEGREES.sub("°", text))
    for char in "%$#&_":
        text = text.replace(f"\\{char}", char)
    text = _NUMERIC_FRACTION.sub(_write_fraction, text)
    text = _EXPONENT.sub(_write_exponent, text)
    for _ in range(3):  # commands may be nested
        text = _SYMBOLIC_GROUPS.sub(SYMBOLIC, _ROOT.sub(SYMBOLIC, text))
        text = _NUMERIC_FRACTION.sub(_write_fraction, _COMMAND_WITH_TEXT.sub(_unwrap_command, text))
    text = text.replace("\\{", "[").replace("\\}", "]")
    return _LATEX_COMMAND.sub(lambda m: _LATEX_SYMBOLS.get(m[1], " "), text).replace("\\", " ")


def _unwrap_command(match: re.Match[str]) -> str:
    content = match[1]
    # A letter directly before a digit would hide the number.
    return f"{content} " if content[-1:].isalpha() else content


def _write_exponent(match: re.Match[str]) -> str:
    return f"^{match[1] or match[3] or ''}{match[2] or match[4]}"


def _write_fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2] or match[3], match[4] or match[5]
    return f"{whole} {above}/{below}" if whole else f"{above}/{below}"
