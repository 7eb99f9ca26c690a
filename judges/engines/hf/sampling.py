"""Sampling in a batch of transformers: seeds of their own for the rows, log-probabilities, cancelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from flex_judge.judges.engines.threaded import EngineRequest


class LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Record log-probabilities of selected tokens at each step, after the grammar mask and before temperature."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)
        self.steps: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record one step."""
        self.steps.append(torch.log_softmax(scores.float(), dim=-1)[:, self.token_ids].cpu())
        return scores

    def get_logprobs(self, row: int) -> list[dict[int, float]]:
        """Return the log-probabilities of one row by token, for each step."""
        return [dict(zip(self.token_ids, step[row].tolist(), strict=True)) for step in self.steps]


class CancelledRows(StoppingCriteria):  # type: ignore[misc]
    """End the rows of a batch whose requests were cancelled, so that no tokens are generated for nobody."""

    def __init__(self, requests: Sequence[EngineRequest], one_by_one: bool) -> None:
        """Watch the requests of a batch.

        Args:
            requests: the request of each row.
            one_by_one: end each cancelled row, or only all rows together. A grammar does not accept the padding of a
                row that was ended before its end.
        """
        self._requests = tuple(requests)
        self._one_by_one = one_by_one

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Return a mask of the rows to end."""
        cancelled = [request.is_cancelled for request in self._requests]
        if not self._one_by_one:
            cancelled = [all(cancelled)] * len(cancelled)
        return torch.tensor(cancelled, dtype=torch.bool, device=input_ids.device)


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Sample each row with its own seed by adding Gumbel noise, so that the argmax is a sample.

    Must be the last processor. It makes a seeded request independent of the other rows of its batch, which
    transformers' own sampling is not.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int | None], device: str) -> None:
        """Create the noise generators.

        Args:
            temperature: above 0.
            top_p: above 0, at most 1.
            seeds: seed of each row; None uses torch's global generator.
            device: device of the scores. The same seed gives different samples on different kinds of devices.
        """
        self._warpers = LogitsProcessorList()
        if temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [None if seed is None else torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add Gumbel noise to the warped scores."""
        scores = self._warpers(input_ids, scores).float()
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)  # -log of an exponential variable has a Gumbel distribution
        return scores - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
