"""Numbers in replies and in columns of right answers."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flex_judge.alignment.data.numbers import (
    find_final_number,
    format_number,
    is_same_number,
    read_number,
    write_number,
)
from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row
from flex_judge.alignment.tasks.arithmetic import find_last_number, is_correct_answer
from flex_judge.judges import UsageError

HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # scripts without spaces between words
        ("答案是42。", 42),
        ("约为-3个。", -3),
        ("共有1，234人", 1234),
        ("답은42입니다.", 42),
        ("คำตอบคือ42", 42),
        # spaces around a slash, and an acute accent for an apostrophe
        ("It is 3 / 4.", Fraction(3, 4)),
        ("CHF 12´345.-", 12345),
        # thousands and decimal marks
        ("1,234", 1234),
        ("1,234,567.8", Fraction("1234567.8")),
        ("1.234.567,8", Fraction("1234567.8")),
        ("1.234.567", 1234567),
        ("100.000,00", 100000),
        ("1 234 567", 1234567),
        ("1\u202f234\u202f567", 1234567),
        ("1\u00a0234,5", Fraction("1234.5")),
        ("9\u2009500", 9500),
        ("In 2020 12 500 units", 12500),
        ("1'234", 1234),
        ("1’234.50", Fraction("1234.5")),
        ("12,34,567", 1234567),
        ("1_000_000", 1000000),
        ("The answer is 1,5.", 3 * HALF),
        ("0,125", Fraction(1, 8)),
        ("1234,567", Fraction("1234.567")),
        (".5", HALF),
        # lists are not one number
        ("1, 2, 3", 3),
        ("4,4,4", 4),
        ("(1,2)", 2),
        ("1.5,2.5", 5 * HALF),
        ("1,5; 2,5", 5 * HALF),
        ("1,234,56", 56),
        # signs and dashes
        ("It is −3.", -3),
        ("It is ‑3.", -3),
        ("It is –3.", -3),
        ("It is —3.", -3),
        ("It is －3.", -3),
        ("It is − 3.", -3),
        ("x = - 3", -3),
        ("It is negative 3.", -3),
        ("It is +5.", 5),
        ("It is a −3.", -3),
        ("2 −3", -3),
        ("a−3", 3),
        ("x − 3", 3),
        ("答案是−３。", -3),
        ("答案：-3", -3),
        ("“−3”", -3),
        ("'-3'", -3),
        (r"\textbf{-3}", -3),
        ("3-5", 5),
        ("3–5", 5),
        ("3 – 5 apples", 5),
        ("7-3", 3),
        ("5 minus 3", 3),
        ("3 − 7 = −4", -4),
        ("- 3 apples", 3),
        ("– 3 apples", 3),
        ("the answer–3", 3),
        # digits of other scripts
        ("٤٢", 42),
        ("－４２", -42),
        ("१२३", 123),
        ("١٬٢٣٤٫٥", Fraction("1234.5")),
        ("１，２３４", 1234),
        ("1\u200b23", 123),
        # LaTeX
        (r"The answer is \boxed{9{,}500}.", 9500),
        (r"\(9\,500\)", 9500),
        (r"$1,\!234$", 1234),
        (r"\[\frac{1}{2}\]", HALF),
        (r"It is \frac{0}{1}.", 0),
        (r"$-\dfrac12$", -HALF),
        (r"$1\frac{1}{2}$", 3 * HALF),
        (r"5\text{ km}", 5),
        (r"\text{Total: }5", 5),
        (r"50\%", 50),
        (r"\$5", 5),
        (r"$1.5\times10^{-3}$", Fraction("0.0015")),
        (r"3 \cdot 10^8", 300000000),
        (r"90^\circ", 90),
        (r"5 \mathrm{m}^{2}", 5),
        # exponents, powers, fractions
        ("1e-3", Fraction(1, 1000)),
        ("3E+2", 300),
        ("1.5×10^4", 15000),
        ("1.5 x 10⁻⁴", Fraction("0.00015")),
        ("10³", 1000),
        ("2^10", 1024),
        ("2**3", 8),
        ("−2²", -4),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("½", HALF),
        ("It is ½.", HALF),
        ("1½", 3 * HALF),
        ("1 ½", 3 * HALF),
        ("1 1/2", 3 * HALF),
        ("3⁄4", Fraction(3, 4)),
        # units, currencies, decoration
        ("$5", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("−€3,50", -7 * HALF),
        ("3,50 €", 7 * HALF),
        ("Rs.500", 500),
        ("5 km", 5),
        ("5kg", 5),
        ("5 m²", 5),
        ("5 m^2", 5),
        ("50 %", 50),
        ("1.5 million", 3 * HALF),
        ("3.", 3),
        ("3...", 3),
        ("5!", 5),
        ("**42**", 42),
        ("__42__", 42),
        ("`42`", 42),
        ("#### 42", 42),
        ("x = 3", 3),
        # what has digits, but is no number
        ("The answer is 5 (as of 2024-05-01).", 5),
        ("In version 3.11.2 it is 4.", 4),
        ("4 at 12:30", 4),
        ("The result is 5 x^2", 5),
        ("5 ± 0.1", 5),
    ],
)
def test_last_number_of_a_text_is_found(text: str, number: Fraction | int) -> None:
    assert find_last_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2^0.5",
        r"\boxed{2x}",
        r"\boxed{5!}",
        r"\boxed{\log 5}",
        r"\boxed{3n}",
        "NaN",
        "infinity",
        "It is inf.",
        "3.11.2",
        "2024-05-01",
        "2024-05-01T12:30:00Z",
        "01/05/2024",
        "1.5.2024",
        "12:30",
        "192.168.100.200",
        "1/2/3",
        "5/0",
        "0x1F",
        "x²",
        "x^2",
        "H2O",
        "2π",
        r"2\pi",
        "√2",
        r"\sqrt{2}",
        r"\frac{\pi}{2}",
        r"0.\overline{3}",
        "2^n",
        "9^9^9",
        "1e999999999",
        "1" * 5000,
    ],
)
def test_text_without_a_number_gives_none(text: str) -> None:
    assert find_final_number(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\boxed{7}, because 3 + 4 = 7 and not 8", 7),
        (r"First \boxed{6}, then \boxed{7}. See page 9.", 7),
        (r"\boxed{} 5", 5),
        (r"\boxed{x = \text{about } 3}", 3),
        (r"\boxed{\boxed{3}}", 3),
        (r"\boxed{x = - 3}", -3),
        (r"\boxed{5\text{ km}^2}", 5),
        (r"\boxed{\frac{1}{3} \approx 0.333}", Fraction(1, 3)),
        (r"I get 5. \boxed{(1, 2)}", None),
        (r"I get 5. \boxed{1,2,3}", None),
        (r"I get 5. \boxed{\text{A}}", None),
        (r"I get 5. \boxed{2\sqrt{3}}", None),
        ("12 + 30 = 42\n#### 42\nwas done in 3 steps", 42),
        ("#### $1,234 dollars", 1234),
        ("#### 3. Compute\nThe result is 8.", 8),
        ("The final answer is 7, not 8.", 7),
        ("Final answer: 12 + 2 = 14, as 3 is odd.", 14),
        ("**Final Answer:** 42\n\n(found in 4 steps)", 42),
        ("The final answer is below.\nIt is 5.", 5),
        ("<think>It may be 5.</think>It is 6.", 6),
        ("It is 6.</think>", 6),
    ],
)
def test_marked_answer_comes_before_the_last_number(text: str, number: Fraction | int | None) -> None:
    assert find_last_number(text) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (5, 5),
        (pa.scalar("5 km"), 5),
        (-2.5, -5 * HALF),
        (0.1, Fraction(1, 10)),
        (10**30, 10**30),
        (np.int64(7), 7),
        (np.float32(0.1), Fraction(1, 10)),
        (np.float64(2.5), 5 * HALF),
        (pa.scalar(3), 3),
        (Decimal("1.10"), Fraction(11, 10)),
        (Fraction(1, 3), Fraction(1, 3)),
        ("1,5", 3 * HALF),
        ("9{,}500", 9500),
        ("1/2", HALF),
        (" 1,234.5 ", Fraction("1234.5")),
        ("−3", -3),
        ("- 3", -3),
        ("+5", 5),
        ("٤٢", 42),
        ("(5)", 5),
        ("x = 3", 3),
        ("US$ 5", 5),
        ("5 km/h", 5),
        ("5 square metres", 5),
        ("**42**.", 42),
        (r"$\frac{1}{3}$", Fraction(1, 3)),
        (r"So it is \boxed{3}.", 3),
        ("She has 3 + 4 = 7.\n#### 1,072", 1072),
    ],
)
def test_column_of_right_answers_holds_numbers_and_their_texts(value: Any, number: Fraction | int) -> None:
    assert read_number(value).value == number
    assert read_number(write_number(read_number(value))).value == number


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, np.bool_(True), b"5", [5], {"a": 1}, np.array([1, 2])),
        *(float("nan"), float("inf"), np.float32("nan"), Decimal("NaN"), Decimal("1E+99999"), "NaN", "inf", "1e99999"),
        *("", "three", "5 or 6", "1, 2, 3", "(1,2)", "3.11.2", "2024-05-01", "12:30", "2π", r"\boxed{A}", "1. Paris"),
    ],
    ids=repr,
)
def test_column_value_that_is_not_one_number_is_an_error(value: Any) -> None:
    with pytest.raises(UsageError, match="expected a number, got"):
        read_number(value)


def test_error_of_a_column_names_file_row_and_field() -> None:
    with pytest.raises(UsageError, match=r"^p\.jsonl, line 7, field 'answer': expected a number, got nan, which is no"):
        parse_answer(float("nan"))


def parse_answer(answer: Any) -> Any:
    row = {"prompt": "Why?", "answer": answer}
    columns = PromptColumns(number="answer")
    return parse_prompt_row(row, "p.jsonl, line 7", 7, columns, Path()).kept["answer"]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("1,234.5", 1234.5),
        ("12", 12),
        (Decimal("0.5"), 0.5),
        ("1/3", "1/3"),
        ("50 %", "50 %"),
        ("2 million", "2 million"),
    ],
)
def test_right_answer_is_kept_as_a_number_if_that_is_exact(answer: Any, kept: Any) -> None:
    assert parse_answer(answer) == kept
    assert type(parse_answer(answer)) is type(kept)


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("It is −3.", "-3", True),
        ("人口は3.5億人", 350_000_000, True),
        ("答案：1万元", 10_000, True),
        ("5 lakh", 500_000, True),
        ("1.5 crores", "1,50,00,000", True),
        ("2,5 Millionen Euro", 2_500_000, True),
        ("3 millions", 3_000_000, True),
        ("It is 5.1.", torch.tensor(5.1), True),
        ("It is 5.2.", torch.tensor(5.1), False),
        ("It is −3.", "3", False),
        ("It is 3.", "−3", False),
        ("The answer is 1,5.", "1,5", True),
        ("The answer is 1,5.", 1.5, True),
        ("The answer is 1.5.", "1,5", True),
        ("1,234", "1234", True),
        ("1,234", 1.234, False),
        # percentages: with the sign or without it, as the column says
        ("50 %", "50", True),
        ("50 percent", "0.5", True),
        ("50", "0.5", False),
        ("50", "50 %", True),
        ("0.5", "50%", True),
        ("0.5%", "50%", False),
        ("1.5 million", 1500000, True),
        ("1.5 million", 1.5, True),
        # rounding
        ("0.30000000000000004", 0.3, True),
        ("0.1", 0.10000000149011612, True),  # a float of 32 bits in a Parquet file
        ("0.333", "1/3", True),
        ("0.33", "1/3", False),
        ("0.667", "2/3", True),
        ("0.666", "2/3", False),
        ("33.3 %", "1/3", True),
        ("1/3", 0.3333333333333333, True),
        ("3.14", 3.14159, False),
        ("1000000000.5", 1000000000, False),
        ("1000000000001", 1000000000000, False),
        ("no number", 5, False),
    ],
)
def test_reply_is_right_if_its_final_number_is_the_answer(response: str, answer: Any, right: bool) -> None:
    assert is_correct_answer(response, answer) is right


def test_numbers_are_formatted_with_15_digits() -> None:
    assert [format_number(Fraction(n)) for n in (14, Fraction("3.50"), Fraction(1, 3), -(10**400))] == [
        *("14", "3.5", "0.333333333333333", "-1.00000000000000e+400")
    ]


def group(digits: str, separator: str, size: int = 3) -> str:
    """Group digits from the right, the first group apart: an own way of writing thousands."""
    if not separator or len(digits) <= 3:
        return digits
    head, groups = digits[:-3], [digits[-3:]]
    while head:
        groups.insert(0, head[-size:])
        head = head[:-size]
    return separator.join(groups)


CONVENTIONS = [
    *(("", "."), (",", "."), (" ", "."), ("\u202f", ","), ("\u00a0", "."), ("'", "."), ("{,}", "."), (r"\,", ".")),
    *((r"\;", "."), ("_", "."), ("\u2009", ",")),
]
SCRIPTS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "０１２３４５６７８９", "०१२३४५६७८९", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"]
FRAMES = [
    *("{}", "It is {}.", "So x = {}", "**{}**", "(The answer: {})", r"\({}\)", r"\boxed{{{}}}", "First 7, then {}"),
    *("#### {}", "The final answer is {}, not 12.", "{} km", "5 + 2 = {}!", "$x={}$", "“{}”"),
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    whole=st.integers(0, 10**9),
    decimals=st.text("0123456789", max_size=6),
    sign=st.sampled_from(["", "-", "−", "–", "+"]),
    convention=st.sampled_from(CONVENTIONS),
    script=st.sampled_from(SCRIPTS),
    frame=st.sampled_from(FRAMES),
)
@example(1234, "", "−", (",", "."), SCRIPTS[0], "It is {}.")
def test_any_number_in_any_notation_reads_as_itself(
    whole: int, decimals: str, sign: str, convention: tuple[str, str], script: str, frame: str
) -> None:
    separator, mark = convention
    text = group(str(whole), separator) + (mark + decimals if decimals else "")
    if mark == "," and len(decimals) == 3 and text.count(",") == 1 and len(str(whole)) <= 3 and whole:
        return  # 1,234 is read as thousands
    text = sign + text.translate(str.maketrans(SCRIPTS[0], script))
    expected = Fraction(whole) + (Fraction(int(decimals), 10 ** len(decimals)) if decimals else 0)
    expected *= -1 if sign in ("-", "−", "–") else 1
    assert find_last_number(frame.format(text)) == expected
    assert read_number(text).value == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.fractions(max_denominator=10**6), st.sampled_from(["{}/{}", r"\frac{{{}}}{{{}}}", r"\dfrac{{ {} }}{{ {} }}"]))
def test_any_fraction_reads_as_itself(value: Fraction, notation: str) -> None:
    text = notation.format(value.numerator, value.denominator)
    assert find_last_number(f"It is {text}.") == value
    written = write_number(read_number(value))
    assert read_number(written).value == value
    assert is_same_number(read_number(written), read_number(text))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_is_the_number_that_it_prints(value: float) -> None:
    assert is_correct_answer(f"It is {value!r}.", value)
    assert read_number(value).value == Fraction(repr(value))
    assert is_same_number(read_number(write_number(read_number(value))), read_number(value))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("0123456789.,-−–/ %^e\\{}$()=:xπ½²\u202f'_\n*#"), max_size=40))
def test_any_text_is_read_without_an_error(text: str) -> None:
    number = find_final_number(text)
    assert number is None or is_same_number(number, number)
    try:
        assert read_number(write_number(read_number(text))).value == read_number(text).value
    except UsageError as e:
        assert str(e).startswith("expected a number, got")  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    [
        *("1" * 50000, "1 " * 25000, "1," * 25000, " " * 50000, "{" * 50000, r"\boxed{" * 7000, r"\frac{" * 7000),
        *("^" * 50000, "1/2/" * 12000, "1" * 30000 + r"\bar{3}", r"\frac" + " " * 50000, "final answer is " * 3000),
        "5" + "a" * 50000,
    ],
    ids=lambda text: text[:8],
)
def test_long_text_is_read_in_linear_time(text: str) -> None:
    started = time.perf_counter()
    find_final_number(text)
    assert time.perf_counter() - started < 5
