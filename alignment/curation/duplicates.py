"""Near-duplicates among many texts: MinHash and bands find candidates, their shingles are then compared exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.steps import StepResult
from flex_judge.alignment.data.texts import SHINGLE, compute_similarity, normalise_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BANDS, ROWS_PER_BAND = 16, 4
"""Two texts are candidates if one of so many bands, each of so many minima, is the same in both (Broder 1997): of pairs
that share 0.8 of their shingles 99.98 % are found, of those that share 0.1 fewer than one in 600 is looked at."""
MIN_SIMILARITY = 0.7
"""Similarity below which bands would miss more than one pair in fifty."""
_SPREAD = 0.2
"""The share of equal minima estimates the similarity to within this (three standard errors or more)."""


@dataclass(frozen=True)
class NearDuplicateFilter:
    """Of training examples whose question and answers are nearly the same, keeps the one with the longest reasoning.

    Takes time in proportion to the texts, and to the pairs that are nearly alike.
    """

    most: float = 0.8
    """How alike two may be, 0.7 to 1, see `flex_judge.alignment.data.texts.similarity`; at 1 nothing is dropped."""
    name: str = "no near-duplicates"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        if self.most >= 1:
            return StepResult(list(examples), [])
        index = _MinHashIndex(self.most)
        rival: dict[str, TrainingExample] = {}
        for example in sorted(examples, key=lambda example: (-example.tokens, example.id)):
            if (found := index.find_or_add("\n".join(example.texts), example)) is not None:
                rival[example.id] = found
        return StepResult(
            [example for example in examples if example.id not in rival],
            [
                example.record_drop("near-duplicate of another row", f"as row {rival[example.id].reference.row}")
                for example in examples
                if example.id in rival
            ],
        )


class _MinHashIndex:
    """Texts that are kept, found again by the bands of their signatures."""

    def __init__(self, most: float) -> None:
        import numpy as np

        self._most = most
        rng = np.random.default_rng(0)  # the same functions in every run
        self._factors = rng.integers(0, 1 << 63, BANDS * ROWS_PER_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._kept: list[tuple[str, TrainingExample, NDArray[np.uint64]]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def find_or_add(self, text: str, example: TrainingExample) -> TrainingExample | None:
        """The training example that has nearly this text already; if there is none, this one is kept."""
        text = normalise_text(text)
        signature = self._compute_signature(text)
        keys = list(enumerate(part.tobytes() for part in signature.reshape(BANDS, ROWS_PER_BAND)))
        for number in self._iter_candidates(keys):
            other, kept, minima = self._kept[number]
            near = float((minima == signature).mean()) >= self._most - _SPREAD
            if near and compute_similarity(text, other) > self._most:
                return kept
        for key in keys:
            self._buckets[key].append(len(self._kept))
        self._kept.append((text, example, signature))
        return None

    def _iter_candidates(self, keys: Sequence[tuple[int, bytes]]) -> Iterator[int]:
        seen: set[int] = set()
        for key in keys:
            for number in self._buckets.get(key, ()):
                if number not in seen:
                    seen.add(number)
                    yield number

    def _compute_signature(self, text: str) -> Any:
        """Minima of the shingles under each function, array (BANDS * BAND,) of uint64.

        A function multiplies by an odd number modulo 2**64 after the bits were mixed (multiply-shift hashing).
        """
        import numpy as np

        codes = np.frombuffer(text.ljust(SHINGLE).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        windows = np.lib.stride_tricks.sliding_window_view(codes.astype(np.uint64), SHINGLE)
        hashed = np.zeros(len(windows), dtype=np.uint64)
        for place in range(SHINGLE):
            hashed = (hashed ^ windows[:, place]) * np.uint64(0x9E3779B97F4A7C15)
            hashed ^= hashed >> np.uint64(29)
        return (np.unique(hashed)[:, None] * self._factors >> np.uint64(20)).min(axis=0)
