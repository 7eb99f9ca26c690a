"""Rubrics: scales, the ones that come with the project, and TOML files of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from judges import UsageError
from judges.rubrics import Rubric, Scale, load_rubric

OWN = 'criteria = "politeness"\nscale = "1.0-5.0"\nexample = [2, 4.5]\n'


@pytest.mark.parametrize(
    ("text", "labels", "count"),
    [
        ("1-5", ("1", "2"), 5),
        ("1-10", ("1", "2"), 10),
        ("0-1", ("0", "1"), 2),
        ("0-100", ("0", "1"), 101),
        ("1.0-5.0", ("1.0", "1.1"), 41),
        ("0.0-1.0", ("0.0", "0.1"), 11),
        ("0.25-0.75", ("0.25", "0.26"), 51),
    ],
)
def test_a_scale_has_every_score_as_it_is_written(text: str, labels: tuple[str, str], count: int) -> None:
    scale = Scale.parse(text)
    assert str(scale) == text
    assert scale.labels[:2] == labels
    assert len(scale.labels) == len(set(scale.labels)) == count
    assert (float(scale.labels[0]), float(scale.labels[-1])) == (scale.low, scale.high)
    assert all(float(label) in scale for label in scale.labels)


@pytest.mark.parametrize(
    "text",
    ["", "5", "5-1", "3-3", "1-", "-5", "-1-5", "1 - 5", "1-5 ", "one-five", "1-5.0", "01-05", "1e0-5", "١-٥"],
)
def test_a_text_that_is_no_scale_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        Scale.parse(text)


@pytest.mark.parametrize("text", ["1-inf", "1-nan", "nan-nan"])
def test_a_scale_is_finite(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        Scale.parse(text)


def test_the_regular_expression_of_a_scale_is_exactly_its_labels() -> None:
    scale = Scale.parse("1.0-2.0")
    assert all(re.fullmatch(scale.regex, label) for label in scale.labels)
    assert not any(re.fullmatch(scale.regex, text) for text in ("1", "2.1", "0.9", "1x5", "1.00", "10", ""))


@pytest.mark.parametrize("name", ["general", "correctness"])
def test_the_rubrics_that_come_with_the_project_load(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.name == name
    assert all(label in rubric.scale.labels for label in rubric.example)


def test_a_file_of_ones_own_is_a_rubric(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text(OWN)
    assert load_rubric(str(path)) == Rubric(str(path), "politeness", Scale(1.0, 5.0, 1), ("2.0", "4.5"))


def test_the_example_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text('criteria = "politeness"\nscale = "1-5"\n')
    assert load_rubric(str(path)).example == ("1", "5")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"criteria": None}, "criteria"),
        ({"criteria": "  "}, "criteria"),
        ({"criteria": 3}, "criteria"),
        ({"scale": None}, "scale"),
        ({"scale": 5}, "scale"),
        ({"scale": "five"}, "scale"),
        ({"scale": "5-1"}, "scale"),
        ({"example": [1]}, "example"),
        ({"example": [1, 6]}, "example"),
        ({"example": ["1", "5"]}, "example"),
        ({"example": [True, 5]}, "example"),
        ({"example": 3}, "example"),
        ({"example": [1, float("nan")]}, "example"),
        ({"example": [1, 3.7]}, "example"),
        ({"weight": 2}, "weight"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_with_its_file(change: dict[str, Any], field: str) -> None:
    data = {k: v for k, v in ({"criteria": "x", "scale": "1-5"} | change).items() if v is not None}
    with pytest.raises(UsageError, match=rf"^my\.toml: .*'{field}'"):
        Rubric.from_dict("my", data, source="my.toml")


def test_a_wrong_field_in_a_file_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text(OWN.replace("1.0-5.0", "five"))
    with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}: field 'scale'"):
        load_rubric(str(path))


@pytest.mark.parametrize("content", [b"criteria = ", b"\xff\xfe", b"[criteria\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.toml: not a TOML file"):
        load_rubric(str(path))


@pytest.mark.parametrize("name", ["nice", "forms", "missing.toml", "", ".", "general.toml", "../rubrics/general"])
def test_an_unknown_rubric_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match="choose one of correctness, general"):
        load_rubric(name)
