"""Near-duplicate filter: MinHash with banding finds candidate pairs, then exact shingle similarity decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.curation.steps import StepResult, split_examples
from flex_judge.alignment.data.normal_forms import fold_text
from flex_judge.alignment.data.texts import SHINGLE, compute_similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BANDS, ROWS_PER_BAND = 16, 4
"""Shape of a signature. Two texts are candidates if all minima of one band are equal (Broder 1997).

Pairs that share 80 % of their shingles become candidates with probability 0.9998, pairs that share 10 % with less than
1/600.
"""
MIN_SIMILARITY = 0.7
"""Lowest supported threshold; below it, banding would miss more than 2 % of the similar pairs."""
_ESTIMATE_MARGIN = 0.2
"""Error bound of the similarity estimate from a signature (at least three standard errors)."""


@dataclass(frozen=True)
class NearDuplicateFilter:
    """Curation step that keeps the example with the longest reasoning of each group of near-duplicates.

    Two examples are near-duplicates if their question and answers are nearly equal. The run time is linear in the
    length of the texts and in the number of near-duplicate pairs.
    """

    max_similarity: float = 0.8
    """Highest similarity of two kept examples, from 0.7 to 1, see `flex_judge.alignment.data.texts.compute_similarity`.

    At 1 nothing is dropped.
    """
    name: str = "near-duplicate removal"

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples into unique ones and near-duplicates."""
        if self.max_similarity >= 1:
            return StepResult(list(examples), [])
        index = _MinHashIndex(self.max_similarity)
        duplicate_of: dict[str, TrainingExample] = {}
        # The longest reasoning is indexed first, so that the other examples are dropped in its favour.
        for example in sorted(examples, key=lambda example: (-example.tokens, example.id)):
            match = index.find_or_add("\n".join(example.texts), example)
            if match is not None:
                duplicate_of[example.id] = match

        def find_drop(example: TrainingExample) -> DropRecord | None:
            match = duplicate_of.get(example.id)
            if match is None:
                return None
            return example.record_drop("near-duplicate of another row", f"duplicates row {match.reference.row}")

        return split_examples(examples, find_drop)


class _MinHashIndex:
    """Index of unique texts, searchable by the bands of their MinHash signatures."""

    def __init__(self, max_similarity: float) -> None:
        import numpy as np

        self._max_similarity = max_similarity
        rng = np.random.default_rng(0)  # fixed seed: every run uses the same hash functions
        # Multiply-shift hashing needs odd factors.
        self._factors = rng.integers(0, 1 << 63, BANDS * ROWS_PER_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._entries: list[tuple[str, TrainingExample, NDArray[np.uint64]]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def find_or_add(self, text: str, example: TrainingExample) -> TrainingExample | None:
        """Find an indexed near-duplicate of a text, or add the text to the index.

        Returns:
            The example of the near-duplicate, or None if the text was added.
        """
        text = fold_text(text)
        signature = self._compute_signature(text)
        keys = list(enumerate(band.tobytes() for band in signature.reshape(BANDS, ROWS_PER_BAND)))
        for number in self._iter_candidates(keys):
            candidate_text, candidate, candidate_signature = self._entries[number]
            # The estimate is cheap and rules out most candidates before the exact comparison.
            estimate = float((candidate_signature == signature).mean())
            if estimate < self._max_similarity - _ESTIMATE_MARGIN:
                continue
            if compute_similarity(text, candidate_text) > self._max_similarity:
                return candidate
        for key in keys:
            self._buckets[key].append(len(self._entries))
        self._entries.append((text, example, signature))
        return None

    def _iter_candidates(self, keys: Sequence[tuple[int, bytes]]) -> Iterator[int]:
        seen: set[int] = set()
        for key in keys:
            for number in self._buckets.get(key, ()):
                if number not in seen:
                    seen.add(number)
                    yield number

    def _compute_signature(self, text: str) -> Any:
        """Compute the MinHash signature of a text, an array of shape (BANDS * ROWS_PER_BAND,) and type uint64.

        Each hash function mixes the bits of a shingle, then multiplies by an odd number modulo 2**64 (multiply-shift).
        """
        import numpy as np

        # The padding gives texts that are shorter than one shingle a signature too.
        codes = np.frombuffer(text.ljust(SHINGLE).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        windows = np.lib.stride_tricks.sliding_window_view(codes.astype(np.uint64), SHINGLE)
        hashes = np.zeros(len(windows), dtype=np.uint64)
        for column in range(SHINGLE):
            hashes = (hashes ^ windows[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(29)
        # Repeated shingles do not change a minimum, so each one is hashed only once.
        return (np.unique(hashes)[:, None] * self._factors >> np.uint64(20)).min(axis=0)
