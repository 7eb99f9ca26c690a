"""Position ids of Qwen2.5-VL and Qwen2.5-Omni: one number each for time, row and column (arXiv 2502.13923).

Computed here and not by transformers: since 5.x its Qwen2.5-VL continues the text after a video at the height or width
of a frame, whereas the models were trained (and vllm runs them) with the text continuing after the video's last time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grid:
    """Where an image or a video stands in a prompt, and its shape in tokens."""

    start: int
    """Index of its first token."""
    frames: int
    """1 for an image, else the frames of a video after merging."""
    rows: int
    columns: int
    step: float = 0.0
    """Positions from one frame to the next: tokens per second times seconds per merged frame."""

    @property
    def size(self) -> int:
        """Its number of tokens."""
        return self.frames * self.rows * self.columns


def position_ids(length: int, grids: Sequence[Grid]) -> torch.Tensor:
    """Positions of a prompt's tokens, as integers of shape (3, length): time, row, column.

    Text (and audio) counts up in all three alike. A grid counts from the position that text would have had there, and
    what follows it goes on after the highest number in it.

    Args:
        length: tokens of the prompt, pads repeated.
        grids: its images and videos, in their order.
    """
    pieces: list[torch.Tensor] = []
    done, position = 0, 0
    for grid in grids:
        text = grid.start - done
        pieces.append(_text(position, text))
        position += text
        times = [int(frame * grid.step) for frame in range(grid.frames)]
        axes = (torch.tensor(times), torch.arange(grid.rows), torch.arange(grid.columns))
        pieces.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1) + position)
        position = int(pieces[-1].max()) + 1
        done = grid.start + grid.size
    pieces.append(_text(position, length - done))
    return torch.cat(pieces, dim=1)


def _text(start: int, length: int) -> torch.Tensor:
    return torch.arange(start, start + length).expand(3, -1)
