"""Rubrics that requests bring: only if the operator allows it, validated and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

import flex_judge.reward.server.decoding as decoding
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import INLINE, load_rubric, make_inline_name, shorten_inline_name
from flex_judge.reward.server.decoding import RubricRegistry
from flex_judge.reward.types import RewardSpec, Sample

RUBRIC = 'criteria = "tact"\nscale = "1-5"\n'


def write(folder: Path, text: str, name: str = "r.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_content_is_the_identity(tmp_path: Path) -> None:
    same = [make_inline_name(write(tmp_path, text)) for text in (RUBRIC, '# words\nscale = "1-5"\ncriteria = "tact"')]
    other = make_inline_name(write(tmp_path, RUBRIC.replace("tact", "wit")))
    assert same[0] == same[1] != other
    rubric, file = load_rubric(same[0]), load_rubric(write(tmp_path, RUBRIC))
    assert (rubric.criteria, rubric.scale) == (file.criteria, file.scale)
    sample = Sample((), "a")
    # Groups of different rubrics are never mixed.
    assert RewardSpec(same[0]).compute_group_id(sample) != RewardSpec(other).compute_group_id(sample)
    assert shorten_inline_name(same[0]) != shorten_inline_name(other)
    assert shorten_inline_name("general") == "general"


def test_registry_takes_rubrics_only_if_allowed(tmp_path: Path) -> None:
    name = make_inline_name(write(tmp_path, RUBRIC))
    with pytest.raises(UsageError, match="rubric: the service takes no rubrics from requests; ask its operator"):
        RubricRegistry().find_rubric(name)
    assert RubricRegistry(allow_inline=True).find_rubric(name, 2).criteria == "tact"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{INLINE}{{", "inline rubric: not JSON"),
        (f"{INLINE}[]", "inline rubric: expected a JSON object"),
        (f"{INLINE}{'[' * 10_000}", "inline rubric: not JSON"),
        (INLINE + '{"criteria": "tact", "scales": "1-5"}', r"unknown field 'scales'; did you mean 'scale'\?"),
        (INLINE + '{"criteria": "tact"}', "field 'scale': expected"),
        (f'{INLINE}{{"criteria": "{"x" * 20_000}"}}', "at most 16384 are allowed"),
    ],
)
def test_invalid_rubric_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        RubricRegistry(allow_inline=True).find_rubric(name)
    assert len(str(error.value)) < 300


def test_number_of_rubrics_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_INLINE_RUBRICS", 1)
    registry = RubricRegistry(allow_inline=True)
    first, second = (make_inline_name(write(tmp_path, RUBRIC.replace("tact", word))) for word in ("tact", "wit"))
    registry.find_rubric(first)
    registry.find_rubric(first)
    with pytest.raises(UsageError, match="requests have brought 1 different rubrics"):
        registry.find_rubric(second)
    assert registry.find_rubric("general").name == "general"


def test_number_of_responses_is_checked_without_repeating_the_rubric(tmp_path: Path) -> None:
    name = make_inline_name(write(tmp_path, RUBRIC + "responses = 1\n"))
    with pytest.raises(UsageError, match=r"rubric 'inline:[0-9a-f]{16}' is made for 1 responses"):
        RubricRegistry(allow_inline=True).find_rubric(name, 2)
