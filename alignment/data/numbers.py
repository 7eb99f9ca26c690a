"""Numbers in answers: one reader for the final number of a reply and for a column of right answers.

Numbers are exact fractions. Thousands may be grouped as `1,234,567.8`, `1.234.567,8`, `1 234 567`, `1'234` or
`12,34,567`; a comma before other than three digits is a decimal comma, unless it separates items of a list. NaN and
infinity are no numbers, and neither are dates, times, versions and multiples of π or of roots.
"""

from __future__ import annotations

import contextlib
import re
import reprlib
import struct
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from flex_judge.alignment.data.number_notation import CURRENCY, MINUS, SYMBOLIC, simplify_notation
from flex_judge.alignment.data.number_tokens import (
    FLOAT_NOISE,
    MAX_DIGITS,
    SCALES,
    Number,
    find_last_token,
    iterate_tokens,
    make_decimal,
)
from flex_judge.judges.errors import UsageError

FLOAT32_NOISE = Fraction(1, 2**23)
"""Relative error of a value that was stored with 32 bits."""
MIN_ROUNDED_DIGITS = 3
"""Minimum number of significant digits of a decimal that stands for a fraction without a finite decimal form."""
_CHAIN = re.compile(rf"[\s*]*(?:[-+×÷*/=≈~{MINUS}][\s*$(]*)+")
_FINAL_ANSWER = re.compile(r"final\s+answer\b[\s*_]*(?:is\b|:|=)[\s*_:=]*", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.MULTILINE)
_BOX_OR_BRACE = re.compile(r"\\f?boxed\s{0,3}\{|[{}]")
# Before the only number of a text, a dash and a space are a sign, not a bullet.
_LEADING_DASH = re.compile(r"\A\s*[-–—]\s+(?=[\d.])")
# The number of `2x` and `5!` is not the answer; other letters are units.
_FACTOR = re.compile(r"\s*[xyzn](?![^\W_])|!(?!\w)")
_PREFIX = re.compile(rf"(?:[^\W\d][^\d=:≈]{{0,40}}[=:≈])?[\s(\[*\"'`~≈+{CURRENCY}]*(?:[A-Z]{{2,3}}[{CURRENCY}]?\s?)?")
# `3. Paris` and `3) Paris` are items of a list.
_SUFFIX = re.compile(rf"(?:[\s*\]\"'`!°%/×{CURRENCY}-]|[.)](?!\s+\w)|[^\W\d_]++[23]?){{0,40}}")


def find_final_number(text: str) -> Number | None:
    r"""Find the number that a reply gives as its answer; None if it gives none.

    The number is in the last `\boxed{}`, else after the last `####`, else after the last "final answer is", else it is
    the last number of the text. A reasoning block that ends with `</think>` is left out.
    """
    answer = text.rpartition("</think>")[2]
    text = answer if answer.strip() else text
    boxed = _find_boxed(text)
    if boxed is not None:
        return _read_marked(boxed)
    for match in reversed(list(_HASHES.finditer(text))):
        # A heading may begin with four marks, too; it is not a number and its unit.
        if (number := _read_whole(match[1])) is not None:
            return number
    plain = simplify_notation(text)
    if (number := _find_after_phrase(plain)) is not None:
        return number
    token = find_last_token(plain)
    return None if token is None else token.number


def read_number(value: Any) -> Number:
    r"""Read a value of a column of right answers: a number, or a text that consists of one number and its unit.

    A longer text is a worked solution if it marks its answer with `\boxed{}` or `####`.

    Raises:
        UsageError: the value is not a number.
    """
    text = value.as_py() if hasattr(value, "as_py") else value
    return _read_answer_text(text) if isinstance(text, str) else _convert_number(value)


def is_same_number(first: Number, second: Number) -> bool:
    """Return whether two numbers are the same answer.

    A scale may be left out or written out: `50 %` is the same as `50` and as `0.5`, but `50` is not `0.5`. Integers
    must be equal. Other numbers may differ by rounding of floating point, and a fraction without a finite decimal form
    is the same as its rounding to three or more significant digits.
    """
    if (first.scale == 1) == (second.scale == 1):
        return _are_equal(_apply_scale(first), _apply_scale(second))
    scaled, other = (second, first) if first.scale == 1 else (first, second)
    return _are_equal(replace(scaled, scale=Fraction(1)), other) or _are_equal(_apply_scale(scaled), other)


def write_number(number: Number) -> int | float | str:
    """Write a number as a JSON value that `read_number` reads as the same number.

    Returns:
        An integer or a float if it is exact; else a text such as `1/3` or `50 %`.
    """
    plain = _write_value(number.value)
    if number.scale == 1:
        return plain
    return f"{plain} {next(name for name, scale in SCALES.items() if scale == number.scale)}"


def format_number(value: Fraction) -> str:
    """Format a number with up to 15 significant digits."""
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.15g}"


def _write_value(value: Fraction) -> int | float | str:
    if value.denominator == 1:
        return value.numerator
    # Far beyond the range of floats in either direction, the division fails or gives 0.
    with contextlib.suppress(OverflowError):
        if Fraction(repr(float(value))) == value:
            return float(value)
    return str(value)


def _apply_scale(number: Number) -> Number:
    step = None if number.step is None else number.step * number.scale
    return replace(number, value=number.value * number.scale, step=step, scale=Fraction(1))


def _are_equal(first: Number, second: Number) -> bool:
    """Compare the values of two numbers, see `is_same_number`."""
    a, b = first.value, second.value
    if a == b:
        return True
    if a.denominator == b.denominator == 1:
        return False
    if abs(a - b) <= max(first.noise, second.noise) * max(abs(a), abs(b)):
        return True
    return _is_rounding(a, second) or _is_rounding(b, first)


def _is_rounding(exact: Fraction, decimal: Number) -> bool:
    """Return whether a decimal is the rounding of a fraction without a finite decimal form."""
    if decimal.step is None or decimal.digits < MIN_ROUNDED_DIGITS or abs(exact - decimal.value) * 2 > decimal.step:
        return False
    cofactor = exact.denominator
    for prime in (2, 5):
        while cofactor % prime == 0:
            cofactor //= prime
    return cofactor > 1


def _is_float32(value: object) -> bool:
    """Return whether a float was probably stored with 32 bits: it fits, but its text is longer than that needs."""
    if not isinstance(value, float) or len(repr(abs(value)).partition("e")[0]) < 12:
        return False
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False


def _find_after_phrase(plain: str) -> Number | None:
    """Find the first number after the last "final answer is", or the result if it is an equation."""
    phrases = list(_FINAL_ANSWER.finditer(plain))
    if not phrases:
        return None
    line = plain[phrases[-1].end() :].lstrip().partition("\n")[0]
    tokens = list(iterate_tokens(line))
    for token, following in pairwise(tokens):
        if not _CHAIN.fullmatch(line, token.end, following.start):
            return token.number
    return tokens[-1].number if tokens else None


def _find_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}` that has one."""
    content = None
    starts: list[int | None] = []  # None for braces without a box
    for match in _BOX_OR_BRACE.finditer(text):
        if match[0] != "}":
            starts.append(None if match[0] == "{" else match.end())
        elif starts and (start := starts.pop()) is not None and text[start : match.start()].strip():
            content = text[start : match.start()]
    return content


def _read_marked(content: str) -> Number | None:
    """Read a content that is marked as the answer; None if it is not one number."""
    plain = simplify_notation(content).rpartition("=")[2]
    plain = _LEADING_DASH.sub(MINUS, plain.partition("≈")[0] or plain)
    tokens = list(iterate_tokens(plain))
    if len(tokens) != 1 or SYMBOLIC in plain or _FACTOR.match(plain, tokens[0].end):
        return None
    return tokens[0].number


def _read_whole(text: str) -> Number | None:
    """Read a text that consists of one number, with its unit and decoration; None if it does not."""
    plain = _LEADING_DASH.sub(MINUS, simplify_notation(text))
    tokens = list(iterate_tokens(plain))
    if len(tokens) != 1:
        return None
    is_whole = _PREFIX.fullmatch(plain, 0, tokens[0].start) and _SUFFIX.fullmatch(plain, tokens[0].end)
    return tokens[0].number if is_whole else None


def _read_answer_text(text: str) -> Number:
    boxed, hashes = _find_boxed(text), _HASHES.findall(text)
    number = _read_marked(boxed) if boxed is not None else _read_whole(hashes[-1] if hashes else text)
    if number is None:
        raise UsageError(
            f"expected a number, got {reprlib.repr(text)}; write one number such as 1234.5, 1/3 or 50 %, or mark the "
            r"answer of a worked solution with #### or \boxed{}"
        )
    return number


def _convert_number(value: Any) -> Number:
    """Convert a number of Python, NumPy or Arrow."""
    original = value
    if hasattr(value, "as_py"):
        value = value.as_py()
    if getattr(value, "ndim", None) == 0 and hasattr(value, "dtype"):
        # The text of a short float, 0.1, not its exact value as a float of 64 bits.
        with_text = "float" in str(value.dtype) and not hasattr(value, "requires_grad")  # tensors have no plain text
        value = float(str(value)) if with_text else value.item()
    if isinstance(value, int | float | Decimal | Fraction) and not isinstance(value, bool):
        if isinstance(value, int | Fraction):
            return Number(Fraction(value), step=Fraction(1) if isinstance(value, int) else None)
        decimal = Decimal(repr(value)) if isinstance(value, float) else value
        if decimal.is_finite() and abs(decimal.adjusted()) <= MAX_DIGITS:
            number = make_decimal(f"{abs(decimal):f}")
            number = replace(number, noise=FLOAT32_NOISE if _is_float32(value) else FLOAT_NOISE)
            return replace(number, value=-number.value) if decimal < 0 else number
        raise UsageError(
            f"expected a number, got {original!r}, which is no answer; write a finite number or drop the row"
        )
    raise UsageError(f"expected a number, got {reprlib.repr(original)}; write a number or its text")
