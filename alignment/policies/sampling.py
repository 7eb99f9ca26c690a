"""Functions shared by the policies: checks of sample indices, seeds, and trimming at stop strings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Comparison, Message

SEED_COUNT = 1 << 31
"""Number of seeds; some endpoints accept no larger ones."""


def check_sample_indices(sampling: Sampling, sample_indices: Sequence[int]) -> None:
    """Raise UsageError if several samples are requested at temperature 0, where all would be identical."""
    if sampling.temperature <= 0 and (len(sample_indices) > 1 or any(sample_indices)):
        raise UsageError(
            "temperature: greedy samples of a prompt are all the same; raise the temperature above 0 or request one "
            "sample"
        )


def seed_for_sample(prompt: Sequence[Message], sampling: Sampling, sample_index: int) -> int | None:
    """Derive the seed of one sample from `sampling.seed`, the prompt and the index; None without a seed.

    The temperature is part of the hash, so that the two answers of a pair at different temperatures are independent
    samples and do not share their noise.
    """
    if sampling.seed is None:
        return None
    digest = Comparison("", tuple(prompt), ()).prompt_digest
    # SHA-256 rather than hash(), which differs between processes and versions.
    key = f"{sampling.seed}/{digest}/{float(sampling.temperature)!r}/{sample_index}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % SEED_COUNT


def trim_completion(text: str, stop: Sequence[str]) -> str:
    """Cut `text` at the first stop string and strip white space."""
    return text[: min((text.index(s) for s in stop if s in text), default=len(text))].strip()
