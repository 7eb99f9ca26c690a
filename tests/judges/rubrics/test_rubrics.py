"""Rubrics: scales, presets, and TOML files of users."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flex_judge.judges import UsageError
from flex_judge.judges.rubrics import Rubric, Scale, list_rubrics, load_rubric

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
def test_scale_lists_its_labels(text: str, labels: tuple[str, str], count: int) -> None:
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
def test_invalid_scale_text_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        Scale.parse(text)


@pytest.mark.parametrize("text", ["1-inf", "1-nan", "nan-nan"])
def test_scale_is_finite(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its caller words the message
        Scale.parse(text)


def test_scale_with_too_many_scores_is_rejected() -> None:
    assert len(Scale.parse("0-1000").labels) == 1001
    for text in ("0-1001", "0.00-100.00", "0-999999999"):
        with pytest.raises(ValueError, match="1001"):
            Scale.parse(text)


def test_every_published_case_study_has_a_rubric() -> None:
    text = ["general", "general_1_5", "correctness", "judgelm", "pandalm", "rewardbench2_ties"]
    image = ["mllm_judge_score", "mllm_judge_pair", "mllm_judge_batch", "vl_rewardbench"]
    generated = ["mjbench_alignment", "mjbench_safety", "mjbench_artifact", "genai_image", "genai_edit", "genai_video"]
    audio_and_molecules = ["speech_quality", "speaker_similarity", "membrane_permeability"]
    any_modality = ["judge_anything_pair", "judge_anything_score"]
    assert list_rubrics() == sorted(text + image + generated + audio_and_molecules + any_modality)


@pytest.mark.parametrize(
    ("name", "scale", "responses"),
    [
        ("general", "1-10", (1, None)),
        ("general_1_5", "1-5", (1, None)),
        ("correctness", "1-5", (1, None)),
        ("judgelm", "1-10", (2, 2)),
        ("pandalm", "1-10", (2, 2)),
        ("mllm_judge_score", "1-5", (1, 1)),
        ("mllm_judge_pair", "1-10", (2, 2)),
        ("mllm_judge_batch", "1-10", (3, None)),
        ("vl_rewardbench", "1-10", (2, 2)),
        ("mjbench_alignment", "1-10", (2, 2)),
        ("mjbench_safety", "1-10", (2, 2)),
        ("mjbench_artifact", "1-10", (2, 2)),
        ("speech_quality", "1.0-5.0", (1, 1)),
        ("speaker_similarity", "1.0-5.0", (1, 1)),
        ("membrane_permeability", "1.0-10.0", (1, 1)),
    ],
)
def test_preset_has_the_published_scale_and_form(name: str, scale: str, responses: tuple[int, int | None]) -> None:
    rubric = load_rubric(name)
    assert (str(rubric.scale), rubric.responses, rubric.has_options) == (scale, responses, False)
    assert rubric.distinct == (name == "mllm_judge_batch")


@pytest.mark.parametrize("name", ["genai_image", "genai_edit", "genai_video"])
def test_generated_images_and_videos_are_compared_by_four_options(name: str) -> None:
    rubric = load_rubric(name)
    assert rubric.has_options
    assert rubric.labels == ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]")


@pytest.mark.parametrize("name", list_rubrics())
def test_every_preset_loads(name: str) -> None:
    rubric = load_rubric(name)
    fewest, most = rubric.responses
    assert rubric.name == name
    for responses in range(fewest, (most or fewest + 12) + 1):
        rubric.check_response_count(responses)
        examples = rubric.list_example_answers(responses)
        assert len(examples) == rubric.count_answers(responses)
        assert set(examples) <= set(rubric.labels)


@pytest.mark.parametrize(
    ("name", "count", "made_for"),
    [
        ("genai_image", 1, "2"),
        ("genai_image", 3, "2"),
        ("speaker_similarity", 2, "1"),
        ("mllm_judge_pair", 1, "2"),
        ("mllm_judge_batch", 2, "3 or more"),
        ("general", 0, "1 or more"),
    ],
)
def test_rubric_rejects_unsupported_response_counts(name: str, count: int, made_for: str) -> None:
    with pytest.raises(UsageError, match=f"^rubric '{name}' is made for {made_for} responses at a time, not {count}$"):
        load_rubric(name).check_response_count(count)


def test_listwise_example_extends_the_published_pair_without_repeats() -> None:
    rubric = load_rubric("mllm_judge_batch")
    for responses in range(3, 11):
        examples = rubric.list_example_answers(responses)
        assert examples[:2] == ("3", "5")
        assert len(set(examples)) == responses
        assert examples == rubric.list_example_answers(11)[:responses]


@given(st.integers(0, 20), st.integers(1, 40), st.integers(0, 2), st.integers(1, 60), st.data())
def test_example_answers_are_on_the_scale(low: int, steps: int, decimals: int, n: int, data: Any) -> None:
    grid = 10**decimals
    scale = Scale.parse(f"{low / grid:.{decimals}f}-{(low + steps) / grid:.{decimals}f}")
    example = tuple(data.draw(st.lists(st.sampled_from(scale.labels), min_size=1, max_size=4, unique=True)))
    examples = Rubric("r", "x", scale, example).list_example_answers(n)
    assert len(examples) == n
    assert set(examples) <= set(scale.labels)
    assert len(set(examples)) == min(n, len(scale.labels))
    assert examples[: len(example)] == example[:n]


def test_user_file_is_loaded_as_a_rubric(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text(OWN)
    assert load_rubric(str(path)) == Rubric(str(path), "politeness", Scale(1.0, 5.0, 1), ("2.0", "4.5"))


def test_example_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text('criteria = "politeness"\nscale = "1-5"\n')
    assert load_rubric(str(path)).example == ("1", "5")
    path.write_text('criteria = "politeness"\nanswer = "options"\n')
    assert load_rubric(str(path)).example == ("[[A>B]]",)


def test_texts_may_span_lines_and_end_with_a_period() -> None:
    data = {
        "criteria": "tact,\n  and   wit. ",
        "scale": "1-5",
        "task": "judge wit.",
        "biases": "mood.",
        "notes": "Be fair.",
    }
    rubric = Rubric.from_dict("my", data, source="my.toml")
    assert (rubric.criteria, rubric.task, rubric.biases) == ("tact, and wit", "judge wit", "mood")
    assert rubric.notes == "Be fair."


@pytest.mark.parametrize(
    ("value", "read"),
    [(1, (1, 1)), (2, (2, 2)), ("2", (2, 2)), ("1-2", (1, 2)), ("4-4", (4, 4)), ("3+", (3, None)), ("1+", (1, None))],
)
def test_responses_is_a_number_or_a_range(value: Any, read: tuple[int, int | None]) -> None:
    data = {"criteria": "x", "scale": "1-5", "responses": value}
    assert Rubric.from_dict("my", data, source="my.toml").responses == read


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
        ({"example": [1, 6]}, "example"),
        ({"example": ["1", "5"]}, "example"),
        ({"example": [True, 5]}, "example"),
        ({"example": 3}, "example"),
        ({"example": [1, float("nan")]}, "example"),
        ({"example": [1, 3.7]}, "example"),
        ({"example": []}, "example"),
        ({"example": [2, 2], "distinct": True}, "example"),
        ({"scale": "0-5000"}, "scale"),
        ({"distinct": 1}, "distinct"),
        ({"responses": 0}, "responses"),
        ({"responses": True}, "responses"),
        ({"responses": 2.0}, "responses"),
        ({"responses": "two"}, "responses"),
        ({"responses": "3-2"}, "responses"),
        ({"responses": "0+"}, "responses"),
        ({"responses": "-2"}, "responses"),
        ({"responses": "²"}, "responses"),
        ({"task": ""}, "task"),
        ({"subject": 3}, "subject"),
        ({"notes": " "}, "notes"),
        ({"biases": []}, "biases"),
        ({"answer_header": "[Answer]"}, "answer_header"),
        ({"answer": "letters"}, "answer"),
        ({"answer": ["options"]}, "answer"),
        ({"answer": "options"}, "scale"),
        ({"answer": "options", "scale": None, "distinct": False}, "distinct"),
        ({"answer": "options", "scale": None, "responses": 3}, "responses"),
        ({"answer": "options", "scale": None, "example": "A>B"}, "example"),
        ({"answer": "options", "scale": None, "example": ["[[A>B]]"]}, "example"),
        ({"answer": "options", "scale": None, "answer_header": "[Answer]"}, "answer_header"),
        ({"weight": 2}, "weight"),
    ],
    ids=str,
)
def test_invalid_field_is_reported_with_its_file(change: dict[str, Any], field: str) -> None:
    data = {k: v for k, v in ({"criteria": "x", "scale": "1-5"} | change).items() if v is not None}
    with pytest.raises(UsageError, match=rf"^my\.toml: .*'{field}'"):
        Rubric.from_dict("my", data, source="my.toml")


def test_misspelled_field_suggests_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"^my\.toml: unknown field 'critera'; did you mean 'criteria'\?$"):
        Rubric.from_dict("my", {"critera": "x"}, source="my.toml")


def test_invalid_field_in_a_file_is_reported_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "manners.toml"
    path.write_text(OWN.replace("1.0-5.0", "five"))
    with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}: field 'scale'"):
        load_rubric(str(path))


@pytest.mark.parametrize("content", [b"criteria = ", b"\xff\xfe", b"[criteria\n"])
def test_invalid_toml_file_is_reported_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.toml: not a valid TOML file"):
        load_rubric(str(path))


@pytest.mark.parametrize(
    "name",
    ["nice", "prompt", "missing.toml", "", ".", "general.toml", "../rubrics/general", "presets/general", "\0.toml"],
)
def test_unknown_rubric_lists_the_available_ones(name: str) -> None:
    with pytest.raises(UsageError, match="choose one of correctness, genai_edit, "):
        load_rubric(name)


def test_misspelled_rubric_suggests_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"rubric 'genreal' does not exist \(did you mean 'general'\?\); choose one of"
    ):
        load_rubric("genreal")
