"""Position ids of text, images and videos, as in Qwen2.5-VL and Qwen2.5-Omni."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

Grid, compute_position_ids = lazy("flex_judge.judges.engines.hf.media", "Grid", "compute_position_ids")


def test_text_positions_are_equal_in_all_three_axes() -> None:
    assert compute_position_ids(4, []).tolist() == [[0, 1, 2, 3]] * 3


def test_image_positions_count_rows_and_columns() -> None:
    # two text tokens, an image of 2 rows and 3 columns, two text tokens
    assert compute_position_ids(10, [Grid(2, 1, 2, 3)]).tolist() == [
        [0, 1, *[2] * 6, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]


def test_video_positions_count_time() -> None:
    # three frames of one token each, 1.5 s apart, at two positions per second
    assert compute_position_ids(5, [Grid(1, 3, 1, 1, step=3.0)]).tolist() == [
        [0, 1, 4, 7, 8],
        [0, 1, 1, 1, 8],
        [0, 1, 1, 1, 8],
    ]


def test_fractional_times_are_rounded_down() -> None:
    assert compute_position_ids(4, [Grid(0, 4, 1, 1, step=0.7)])[0].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("second", [4, 6])
def test_two_images_have_consecutive_positions(second: int) -> None:
    positions = compute_position_ids(second + 4, [Grid(0, 1, 2, 2), Grid(second, 1, 2, 2)])
    assert positions[:, second].tolist() == [2 + second - 4] * 3


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.floats(0, 30)),
        max_size=4,
    ),
    tail=st.integers(1, 5),
)
def test_every_token_has_a_position_and_text_follows_the_highest(
    shapes: list[tuple[int, int, int, int, float]], tail: int
) -> None:
    grids, length = [], 0
    for text, frames, rows, columns, step in shapes:
        grids.append(Grid(length + text, frames, rows, columns, step))
        length += text + grids[-1].size
    positions = compute_position_ids(length + tail, grids)
    assert positions.shape == (3, length + tail)
    assert int(positions.min()) >= 0
    assert positions[:, -1].tolist() == [int(positions.max())] * 3
