"""Equality of answers to a reader, and folding of texts for comparisons without letter case and layout."""

from __future__ import annotations

import time
import unicodedata

import pytest
from clips import noise, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.data.normal_forms import fold_text, normalise_layout, remove_invisible
from flex_judge.alignment.data.texts import compute_prompt_digest, is_empty_response, make_equality_key
from flex_judge.judges import Message
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.types import Content

FENCE = "```\nx  = 1\n    y\n```"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a b", "a  b "),
        ("a b", "a\u00a0b"),
        ("a b", "a\u202f\u3000b"),
        ("a b", "a\tb"),
        ("5", "\u200b5\ufeff"),
        ("soft", "so\u00adft"),
        ("ab", "a\u200db"),
        ("ab", "a\u2060b"),
        ("ab", "a\ufe0fb"),
        ("ab", "a\U000e0061b"),
        ("ab", "\u2066a\u2069b\u200e"),
        ("ab", "a\x00b\x07"),
        ("café", "cafe\u0301"),
        ("five", "ﬁve"),
        ("a-b", "a\u2011b"),
        ("It is -3.", "It is −3."),
        ("a\nb", "a \r\nb"),
        ("a\nb", "a\u2028b"),
        ("a\n\nb", "a\n \n\n\nb"),
        ("", " \n\u200b\u3164"),
        (FENCE, FENCE.replace("\n", " \r\n")),
        (f"a\n{FENCE}\nb", f"a  \n{FENCE}\nb"),
    ],
)
def test_what_a_reader_does_not_see_makes_no_difference(first: str, second: str) -> None:
    assert make_equality_key(first) == make_equality_key(second)
    assert fold_text(first) == fold_text(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "A"),
        ("a", "a."),
        ("x²", "x2"),
        ("½", "1/2"),
        ("“a”", '"a"'),
        ("f", "ｆ"),
        ("ab", "a b"),
        ("a b", "a\nb"),
        ("a\nb", "a\n\nb"),
        ("if a:\n  b", "if a:\n    b"),
        (FENCE, FENCE.replace("x  =", "x =")),
        (FENCE, FENCE.replace("    y", "  y")),
        ("`a  b`", "`a b`"),
        ("👨\u200d👩", "👨👩"),
        ("می\u200cخواهم", "میخواهم"),
        ("❤\ufe0f", "❤"),
        ("🏴\U000e0067\U000e0062\U000e007f", "🏴"),
        ("\u202eabc", "abc"),
        ("1–2", "1-2"),
    ],
)
def test_what_a_reader_sees_makes_a_difference(first: str, second: str) -> None:
    assert make_equality_key(first) != make_equality_key(second)


def test_media_are_compared_by_content() -> None:
    one, again, other = (make_image(picture(noise(8, width))) for width in (8, 8, 9))
    contents: list[Content] = [(one, "a "), (again, "\u200ba"), (again, "", "a")]
    assert len({make_equality_key(content) for content in contents}) == 1
    different: list[Content] = [(other, "a"), ("a", one), (one,), (one, one, "a"), "a", f"image:{one.digest}a"]
    assert len({make_equality_key(content) for content in [contents[0], *different]}) == 1 + len(different)
    assert make_equality_key(("a", "b")) == make_equality_key("ab")


def test_response_of_invisible_characters_is_empty() -> None:
    assert is_empty_response("\u200b \ufeff\u3164")
    assert not is_empty_response((make_image(picture(noise(8, 8))),))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Ｗｈａｔ  IS 𝟐 + 3?", "what is 2 + 3?", True),
        ("What is 2² + 1?", "What is 22 + 1?", False),
        ("Add ½ cup.", "Add 1⁄2 cup.", False),
        ("Stra\u200bße", "STRASSE", True),
    ],
)
def test_repeated_prompts_are_found_by_what_they_say(first: str, second: str, same: bool) -> None:
    assert (compute_prompt_digest([Message("user", first)]) == compute_prompt_digest([Message("user", second)])) is same


STRANGE = "ab `~\n\r\t\u200b\u200d\u00ad\u0301é²👨\ufe0f\u05d0\u2066\ud800\U000e0061-"
INVISIBLE = st.text(st.sampled_from("\u200b\ufeff\u00ad\u2060\x00\u200d\u200c"), max_size=3)
WORDS = st.lists(
    st.text(st.characters(codec="latin-1", categories=("L", "N", "P")), min_size=1), min_size=1, max_size=6
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(WORDS.filter(lambda words: not set("`~") & set("".join(words))), st.data())
def test_invisible_edits_never_make_a_difference(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    spaces = st.text(st.sampled_from(" \t\u00a0\u2009\u3000"), min_size=1, max_size=3)
    edited = data.draw(INVISIBLE)
    for i, word in enumerate(words):
        edited += (data.draw(spaces) if i else "") + data.draw(INVISIBLE)
        edited += unicodedata.normalize(data.draw(st.sampled_from(["NFC", "NFD"])), word) + data.draw(INVISIBLE)
    assert make_equality_key(edited) == make_equality_key(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(WORDS, st.data())
def test_another_visible_character_always_makes_a_difference(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    place = data.draw(st.integers(0, len(text)))
    edited = text[:place] + data.draw(st.sampled_from("aZ9.,;!?€日")) + text[place:]
    assert make_equality_key(edited) != make_equality_key(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(STRANGE), max_size=30))
def test_normal_forms_are_stable(text: str) -> None:
    assert normalise_layout(normalise_layout(text)) == normalise_layout(text)
    assert remove_invisible(remove_invisible(text)) == remove_invisible(text)
    assert fold_text(fold_text(text)) == fold_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("`" * 50000, "".join("`" * (i % 300 + 1) + "a" for i in range(300))),
        *("\u200d" * 50000, "```\n" * 20000, " \n" * 50000),
    ],
    ids=["backticks", "runs", "joiners", "fences", "lines"],
)
def test_long_text_is_compared_in_linear_time(text: str) -> None:
    started = time.perf_counter()
    make_equality_key(text)
    assert time.perf_counter() - started < 5
