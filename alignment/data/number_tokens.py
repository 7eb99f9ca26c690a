"""Numbers in a text whose notation was simplified: digits, thousands, decimal marks, signs, exponents and scales."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from flex_judge.alignment.data.number_notation import CURRENCY, MINUS, SYMBOLIC

MAX_DIGITS = 1000
"""Maximum number of digits of a number, and maximum exponent; longer ones are no numbers."""
MAX_GROUPS = 8
"""Maximum number of groups of digits that spaces separate."""
FLOAT_NOISE = Fraction(1, 10**14)
"""Relative difference of two numbers, at least one of them no integer, that is rounding of binary floating point."""
SCALES = {
    **dict.fromkeys(("%", "percent", "per cent", "pct"), Fraction(1, 100)),
    "‰": Fraction(1, 1000),
    "hundred": Fraction(100),
    "thousand": Fraction(1000),
    **dict.fromkeys(("million", "millions", "Millionen"), Fraction(10**6)),
    **dict.fromkeys(("billion", "billions", "Milliarde", "Milliarden"), Fraction(10**9)),
    "trillion": Fraction(10**12),
    **dict.fromkeys(("lakh", "lakhs"), Fraction(10**5)),
    **dict.fromkeys(("crore", "crores"), Fraction(10**7)),
    **dict.fromkeys("万萬만", Fraction(10**4)),
    **dict.fromkeys("亿億억", Fraction(10**8)),
}
_SCALE_NAMES = {name.lower(): scale for name, scale in SCALES.items()}
_SCALE = re.compile(
    # The scales of other scripts need no end of a word: 元 follows them directly.
    rf"\s?([{''.join(name for name in SCALES if len(name) == 1)}]|(?:{'|'.join(n for n in SCALES if len(n) > 1)})\b)",
    re.IGNORECASE,
)
# Letters that numbers follow directly: scripts without spaces between words, such as Chinese and Thai, or with prefixes
# joined to numbers, such as Hebrew and Arabic.
_WITHOUT_SPACES = "\u0590-\u1aff\u3040-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(
    rf"""(?:(?<![\w)\]}}.])(?P<lead>\.))?(?<![^\W_{_WITHOUT_SPACES}])(?<!\^)(?P<run>\d+(?:[.,'_/ ]\d+)*)
    (?:[eE](?P<exponent>[-+{MINUS}]?\d{{1,9}})(?!\w))?(?:\s?\^\s?(?P<power>[-+{MINUS}]?\d{{1,9}})(?!\d))?""",
    re.VERBOSE,
)
_SIGN = re.compile(rf"([-+–—{MINUS}])(\s?)(?:[A-Z]{{0,3}}[{CURRENCY}]\s?)?\Z")
_SYMBOLIC_TAIL = re.compile(rf"\s?[{SYMBOLIC}^]|\s?∞")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
_GROUPED = re.compile(
    r"""\d{1,3}(?:,\d{3})+(?:\.\d+)?  # 1,234,567.8
    | \d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?  # 12,34,567.8
    | \d{1,3}(?:_\d{3})+(?:\.\d+)?  # 1_234
    """,
    re.VERBOSE,
)
# 1.234,5 and 1.234.567
_GROUPED_WITH_COMMA = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}")
# 1 234,5 and 1'234.5
_GROUPED_WITH_ANY = re.compile(r"\d{1,3}(?: \d{3})+(?:[.,]\d+)?|\d{1,3}(?:'\d{3})+(?:[.,]\d+)?")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")
_MIXED = re.compile(r"(\d+) (\d+)/(\d+)")


@dataclass(frozen=True)
class Number:
    """Number in an answer."""

    value: Fraction
    """The number as written, without its scale: 50 for `50 %`."""
    scale: Fraction = Fraction(1)
    """1/100 for a percentage, 10**6 for `1.5 million`."""
    step: Fraction | None = None
    """Value of the last written digit; None if the number is written as a fraction."""
    digits: int = 0
    """Number of significant digits."""
    noise: Fraction = FLOAT_NOISE
    """Relative error that storing the number may have caused."""


@dataclass(frozen=True)
class Token:
    """Number in a simplified text; None is a quantity that is no number, such as 2π."""

    number: Number | None
    start: int
    """Position of the sign, or of the first digit."""
    end: int


def iterate_tokens(text: str) -> Iterator[Token]:
    """Find the numbers in a simplified text."""
    for match in _TOKEN.finditer(text):
        yield from _read_match(text, match)


def find_last_token(text: str) -> Token | None:
    """Find the last number in a simplified text; the others are not read."""
    return next(
        (tokens[-1] for match in reversed([*_TOKEN.finditer(text)]) if (tokens := _read_match(text, match))), None
    )


def _read_match(text: str, match: re.Match[str]) -> list[Token]:
    """Read a run of digits with its sign, exponent and scale: one number, a list, or none."""
    start, end = match.start(), match.end()
    is_enclosed = text[max(0, start - 1) : start] in ("(", "[", "{") and text[end : end + 1] in (")", "]", "}")
    numbers = _read_run(("0." if match["lead"] else "") + match["run"], is_enclosed)
    if not numbers:
        return []
    is_negative, sign_start = _find_sign(text, start)
    if is_negative and numbers[0] is not None:
        numbers[0] = replace(numbers[0], value=-numbers[0].value)
    last = _apply_exponents(numbers[-1], match["exponent"], match["power"])
    scale = _SCALE.match(text, end)
    if _SYMBOLIC_TAIL.match(text, end):
        last = None
    elif scale is not None and last is not None:
        last, end = replace(last, scale=_SCALE_NAMES[scale[1].lower()]), scale.end()
    return [Token(number, sign_start, end) for number in (*numbers[:-1], last)]


def _read_run(run: str, is_list: bool = False) -> list[Number | None]:
    """Read a run of digits and separators: one number, or the items of a list; nothing for dates and versions."""
    if (number := _read_single(run, is_list)) is not None:
        return [number]
    if " " in run:
        # The longest end that is one number: in `In 2020 12 500` it is 12 500.
        parts = run.split(" ")
        cuts = range(max(1, len(parts) - MAX_GROUPS), len(parts))
        cut = next((i for i in cuts if _read_single(" ".join(parts[i:]), is_list) is not None), len(parts) - 1)
        head = [number for part in parts[:cut] for number in _read_run(part, is_list)]
        return [*head, *_read_run(" ".join(parts[cut:]), is_list)]
    for separator in (",", "_"):
        if separator in run:
            return [number for part in run.split(separator) for number in _read_run(part, is_list=True)]
    # A division by zero and a number with too many digits are quantities, but no numbers.
    return [None] if run.isdigit() or re.fullmatch(r"[\d.]+/0+", run) else []


def _read_single(text: str, is_list: bool) -> Number | None:
    """Read a run that is one number as a whole."""
    if len(text) > MAX_DIGITS:
        return None
    if mixed := _MIXED.fullmatch(text):
        whole, above, below = map(int, mixed.groups())
        return Number(whole + Fraction(above, below)) if 0 < above < below else None
    above_text, slash, below_text = text.partition("/")
    number = _read_decimal(above_text, is_list)
    if not slash or number is None:
        return number
    below_number = _read_decimal(below_text, is_list)
    return Number(number.value / below_number.value) if below_number is not None and below_number.value else None


def _read_decimal(text: str, is_list: bool) -> Number | None:
    """Read digits with grouped thousands and a decimal mark."""
    has_zero = text.startswith("0,")  # no group of thousands begins with it
    if _DECIMAL.fullmatch(text) or (_GROUPED.fullmatch(text) and not has_zero):
        return make_decimal(text.replace(",", "").replace("_", ""))
    if _GROUPED_WITH_ANY.fullmatch(text):
        return make_decimal(text.replace(" ", "").replace("'", "").replace(",", "."))
    if _GROUPED_WITH_COMMA.fullmatch(text) and not _is_address(text):
        return make_decimal(text.replace(".", "").replace(",", "."))
    if _DECIMAL_COMMA.fullmatch(text) and not is_list:
        return make_decimal(text.replace(",", "."))
    return None


def _is_address(text: str) -> bool:
    """Return whether a text may be an IPv4 address."""
    parts = text.split(".")
    return len(parts) == 4 and all(part.isdigit() and int(part) < 256 for part in parts)


def make_decimal(text: str) -> Number:
    """Make a number from digits with at most one decimal point."""
    decimals = len(text.partition(".")[2])
    digits = text.replace(".", "")
    step = Fraction(1, 10**decimals)
    return Number(int(digits) * step, step=step, digits=len(digits.lstrip("0")))


def _apply_exponents(number: Number | None, exponent: str | None, power: str | None) -> Number | None:
    """Multiply by a power of ten, or raise to a power; None if the result would have too many digits."""
    if number is not None and exponent is not None:
        factor = int(exponent.replace(MINUS, "-"))
        if abs(factor) > MAX_DIGITS:
            return None
        ten = Fraction(10) ** factor
        number = replace(number, value=number.value * ten, step=None if number.step is None else number.step * ten)
    if number is not None and power is not None:
        times = int(power.replace(MINUS, "-"))
        size = len(str(number.value.numerator)) + len(str(number.value.denominator))
        if abs(times) * size > 4 * MAX_DIGITS or (not number.value and times < 0):
            return None
        # The sign belongs to the result: -2² is -4.
        sign = -1 if number.value < 0 else 1
        return Number(sign * abs(number.value) ** times)
    return number


def _find_sign(text: str, start: int) -> tuple[bool, int]:
    """Return whether a minus belongs to the number at a position, and the position of its sign."""
    prefix = text[max(0, start - 12) : start]
    match = _SIGN.search(prefix)
    if match is None:
        return False, start
    position = start - len(prefix) + match.start()
    is_minus = _is_minus(match[1], bool(match[2]), text[max(0, position - 40) : position])
    return is_minus, position if is_minus else start


def _is_minus(sign: str, has_gap: bool, before: str) -> bool:
    """Return whether a dash is a sign, not an operator, a hyphen, a bullet or the dash of a range."""
    if sign == "+":
        return False
    operand = before.rstrip()
    last = operand[-1:]
    if has_gap and last and last in "=(:≈[<>":
        return True
    if sign == MINUS and (has_gap or before == operand):
        # A single letter is a variable; in `the answer is − 3`, it is the end of a word.
        is_variable = last.isalpha() and not operand[-2:-1].isalpha()
        return not (last.isdigit() or is_variable or last in tuple(f")]}}%{SYMBOLIC}"))
    if has_gap or (sign in "–—" and last.isdigit()):
        return False
    # Scripts without letter case, such as Chinese, join no words with hyphens.
    previous = before[-1:]
    is_word = previous.isdigit() or (previous.isalpha() and unicodedata.category(previous) != "Lo")
    return not (is_word or previous in tuple(")]}.%_"))
