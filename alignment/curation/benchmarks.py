"""Contamination: rows that share a question, or a long run of words, with a benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.steps import StepResult
from flex_judge.alignment.data.texts import normalise_text
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table

NGRAM_SIZE = 13
"""Words in a row that two texts share by more than chance, as in the decontamination of GPT-3 (arXiv 2005.14165)."""
QUESTION_FIELDS = ("prompt", "question", "question_body")
"""Where a benchmark's question stands; the first that a row has."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ContaminationFilter:
    """Drops rows whose question is a benchmark's, or that share a run of RUN words with one of its questions."""

    questions: frozenset[str]
    """Normalised."""
    runs: frozenset[int] = field(repr=False)
    """Hashes of all runs of the questions' words."""
    name: str = "nothing of the benchmarks"

    @classmethod
    def from_files(cls, files: Sequence[str]) -> ContaminationFilter:
        """Read the questions of benchmarks.

        Args:
            files: .jsonl or .parquet, each row with its question as text or messages in a field of FIELDS.

        Raises:
            UsageError: a file cannot be read, or a row of it has no question; the message names file and row.
        """
        questions: set[str] = set()
        runs: set[int] = set()
        for name in files:
            count = 0
            for where, row in read_table(Path(name)):
                for text in _extract_questions(row, where):
                    questions.add(normalise_text(text))
                    runs.update(_hash_ngrams(text))
                count += 1
            if not count:
                raise UsageError(f"--benchmark {name}: holds no row")
        return cls(frozenset(questions), frozenset(runs))

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        sifted = StepResult([], [])
        for example in examples:
            if normalise_text(example.question) in self.questions:
                sifted.dropped.append(example.record_drop("question of a benchmark"))
            elif any(run in self.runs for text in example.texts for run in _hash_ngrams(text)):
                sifted.dropped.append(example.record_drop(f"{NGRAM_SIZE} words in a row of a benchmark"))
            else:
                sifted.kept.append(example)
        return sifted


def _hash_ngrams(text: str) -> Iterator[int]:
    words = _WORD.findall(normalise_text(text))
    for start in range(len(words) - NGRAM_SIZE + 1):
        yield hash(tuple(words[start : start + NGRAM_SIZE]))


def _extract_questions(row: Mapping[str, Any], where: str) -> list[str]:
    value = next((row[name] for name in QUESTION_FIELDS if row.get(name) is not None), None)
    texts = [text for text in _iter_user_texts(value) if text.strip()]
    if not texts:
        raise UsageError(
            f"{where}: no text in a field of {', '.join(QUESTION_FIELDS)}, so nothing could be checked against it"
        )
    return texts


def _iter_user_texts(value: Any) -> Iterator[str]:
    """The texts in a prompt: of messages, what users say."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _iter_user_texts(part)
    elif isinstance(value, Mapping) and value.get("role") in ("user", None):
        yield from _iter_user_texts(value.get("content", value.get("text")))
