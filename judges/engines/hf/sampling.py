"""Sampling for the transformers engine: every row of a batch draws from a generator of its own.

`generate` draws for a whole batch from one generator, so what a row gets depends on its company. Here noise is added to
the scores instead and the greatest is taken, which is the same draw (the Gumbel-max trick, arXiv 1411.0030).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Makes the greatest score of each row a draw from its distribution; to be the last of the processors."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int | None], device: str) -> None:
        """
        Args:
            temperature: above 0.
            top_p: above 0, at most 1.
            seeds: of the rows; None draws from torch's own generator.
            device: where the scores are. The same seed draws otherwise on another kind of device.
        """
        self._warpers = LogitsProcessorList()
        if temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [None if seed is None else torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = self._warpers(input_ids, scores).float()
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)  # minus the logarithm of it has a Gumbel distribution
        return scores - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
