"""Plain floats from numbers of other libraries, and checks of numbers that came from elsewhere."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from flex_judge.judges import Judgment, Status, UsageError, Verdict
from flex_judge.judges.validation.floats import (
    convert_to_float,
    read_optional_float,
    read_optional_floats,
    require_finite_float,
)
from flex_judge.reward.types import Reward


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        np.float32(2),
        np.int8(2),
        np.array([2.0]),
        torch.tensor(2),
        torch.tensor([2.0]),
        pa.scalar(2.0),
        Decimal("2.0"),
        Fraction(2),
    ],
    ids=repr,
)
def test_numbers_of_any_library_become_floats(value: Any) -> None:
    number = convert_to_float(value)
    assert (type(number), number) == (float, 2.0)
    assert type(require_finite_float(value, "x")) is float


@pytest.mark.parametrize("value", ["2", None, [2], np.array([1, 2]), torch.ones(2), 1j, b"2", 10**400], ids=repr)
def test_other_values_are_no_numbers(value: Any) -> None:
    with pytest.raises(UsageError, match="expected a number"):
        convert_to_float(value)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, np.float32("nan"), Decimal("NaN"), True, np.bool_(True)], ids=repr
)
def test_finite_number_is_required(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^x: expected a finite number, got"):
        require_finite_float(value, "x")


def test_optional_numbers_may_be_none() -> None:
    assert read_optional_float(None, "x") is None
    assert read_optional_floats(None, "x") is None
    assert read_optional_floats([1, 2.5], "x") == read_optional_floats(np.array([1, 2.5]), "x") == (1.0, 2.5)
    for values, place in ((5, "x"), ("12", "x"), ([1, math.nan], r"x\[1\]")):
        with pytest.raises(UsageError, match=f"^{place}: expected"):
            read_optional_floats(values, "x")


JUDGMENT = Judgment("a", Status.OK, (5.0,), None, "", votes=(Verdict(Status.OK, (5.0,)),))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"scores": [math.nan]}, r"scores\[0\]: expected a finite number, got nan"),
        ({"expected_scores": ["5"]}, r"expected_scores\[0\]: expected a number, got '5'"),
        ({"disagreement": math.inf}, "disagreement: expected a finite number"),
        ({"votes": [{"status": "ok", "scores": [True]}]}, r"scores\[0\]: expected a finite number, got True"),
        ({"votes": 5}, "expected the fields of this version"),
        ({"status": "splendid"}, "expected the fields of this version"),
        ({"usage": {"prompt_tokens": math.nan}}, "usage.prompt_tokens: expected an integer of at least 0"),
        ({"usage": {"prompt_tokens": -1}}, "usage.prompt_tokens: expected an integer of at least 0"),
    ],
)
def test_judgment_with_a_number_that_is_not_finite_is_rejected(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=f"^judgment: {problem}"):
        Judgment.from_json(JUDGMENT.to_json() | change)


def test_reward_of_a_service_is_a_plain_finite_float() -> None:
    row = Reward(5.0, Status.OK, score=5.0).to_json()
    reward = Reward.from_json({**row, "value": 5, "score": np.float32(5)})
    assert (type(reward.value), type(reward.score)) == (float, float)
    for name in ("value", "score", "expected", "win_rate", "rank", "margin", "disagreement"):
        for value in (math.nan, -math.inf, "5", [5]):
            with pytest.raises(UsageError, match=f"^reward: {name}: expected a"):
                Reward.from_json({**row, name: value})
    del row["status"]
    with pytest.raises(UsageError, match=r"^reward: expected the fields of this version"):
        Reward.from_json(row)
