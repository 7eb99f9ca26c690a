"""Values of other reward functions: finite, plain floats, or None."""

from __future__ import annotations

import logging
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from flex_judge.judges import UsageError
from flex_judge.reward.integrations import training


def other(**_: Any) -> Any:
    raise AssertionError("not called")


@pytest.fixture(autouse=True)
def _forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_warned_functions", set())


def test_nan_of_another_function_adds_nothing_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert training.add_rewards([5.0, 6.0, None], [(other, 0.5)], [[math.nan, 1.0, 1.0]]) == [5.0, 6.5, None]
    (record,) = caplog.records
    assert "value [0] of other is NaN, which counts as None" in record.getMessage()


def test_values_become_plain_floats() -> None:
    values = [1, True, np.float32(0.5), np.bool_(False), torch.tensor(2.0), torch.tensor([3]), Decimal("1.5"), None]
    checked = training.check_values(other, values)
    assert checked == [1.0, 1.0, 0.5, 0.0, 2.0, 3.0, 1.5, None]
    assert {type(value) for value in checked} == {float, type(None)}
    for array in (np.array([1.0, 2.0], dtype=np.float16), torch.tensor([1.0, 2.0]), (v for v in (1.0, 2.0))):
        assert training.check_values(other, array) == [1.0, 2.0]
    totals = training.add_rewards([np.float32(1), 2], [(other, 1)], [[1, 2]])
    assert [type(total) for total in totals] == [float, float]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0, math.inf], r"value \[1\] of other: expected a finite number, got inf"),
        ([1.0, "2"], r"value \[1\] of other: expected a number, got '2'; return a number or None"),
        ([torch.ones(2)], r"value \[0\] of other: expected a number"),
        ([10**400], r"value \[0\] of other: expected a number in the range of floats"),
        (None, "other returned None; expected a list of numbers"),
        (5.0, "other returned 5.0; expected a list"),
        (torch.tensor(5.0), "expected a list of numbers"),
        ({"a": 1}, "expected a list of numbers"),
        ({1.0, 2.0}, "expected a list of numbers"),
        ("12", "expected a list of numbers"),
    ],
    ids=repr,
)
def test_other_values_are_an_error_that_names_function_and_row(values: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        training.check_values(other, values)


def test_sum_must_be_finite() -> None:
    with pytest.raises(UsageError, match=r"\[0\] with the value of other: expected a finite number, got inf"):
        training.add_rewards([1.0], [(other, 10.0)], [[1e308]])
    with pytest.raises(UsageError, match=r"reward of completion \[0\]: expected a finite number, got nan"):
        training.add_rewards([math.nan], [], [])


@pytest.mark.parametrize("weight", [math.nan, math.inf, "1", True, None], ids=repr)
def test_weight_must_be_a_finite_number(weight: Any) -> None:
    with pytest.raises(UsageError, match="weight of other: expected a"):
        training.check_extra_rewards([(other, weight)])


def test_weights_become_plain_floats() -> None:
    ((_, weight),) = training.check_extra_rewards([(other, np.float32(0.5))])
    assert (type(weight), weight) == (float, 0.5)
