"""What all policies share: which draws can be asked for, the seed of each, and where a completion ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Comparison, Message

SEED_COUNT = 1 << 31
"""How many there are: some endpoints take no more than this."""


def check_sample_indices(sampling: Sampling, sample_indices: Sequence[int]) -> None:
    """Raise UsageError where several draws would be the same one: sampling is never silently greedy."""
    if sampling.temperature <= 0 and (len(sample_indices) > 1 or any(sample_indices)):
        raise UsageError(
            "a policy samples at a temperature above 0: greedy samples of a prompt are all the same; "
            "raise the temperature, or ask for one sample"
        )


def seed_for_sample(prompt: Sequence[Message], sampling: Sampling, sample_index: int) -> int | None:
    """The seed of one draw, out of `sampling.seed`, the prompt and the number; None without a seed.

    The temperature is in it too: the answers at two temperatures that a pair is made of are to be independent draws,
    and not the same noise twice.
    """
    if sampling.seed is None:
        return None
    digest = Comparison("", tuple(prompt), ()).prompt_digest
    key = f"{sampling.seed}/{digest}/{float(sampling.temperature)!r}/{sample_index}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % SEED_COUNT


def trim_completion(text: str, stop: Sequence[str]) -> str:
    """`text` up to the stop string that comes first, without white space around it."""
    return text[: min((text.index(s) for s in stop if s in text), default=len(text))].strip()
