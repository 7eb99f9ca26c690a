"""Contamination filter: drop training examples that share a question or a long word n-gram with a benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.examples import TrainingExample
from flex_judge.alignment.curation.rows import DropRecord
from flex_judge.alignment.curation.steps import StepResult, split_examples
from flex_judge.alignment.data.normal_forms import fold_text
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table, require_rows

NGRAM_SIZE = 13
"""Words per n-gram. Two texts rarely share 13 consecutive words by chance (GPT-3, arXiv 2005.14165)."""
QUESTION_FIELDS = ("prompt", "question", "question_body")
"""Fields that may hold the question of a benchmark row; the first one present is used."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ContaminationFilter:
    """Curation step that drops examples which repeat a benchmark question or share an n-gram with one."""

    questions: frozenset[str]
    """Normalised benchmark questions."""
    ngrams: frozenset[int] = field(repr=False)
    """Hashes of all word n-grams of the benchmark questions."""
    name: str = "benchmark decontamination"

    @classmethod
    def from_files(cls, files: Sequence[str]) -> ContaminationFilter:
        """Read benchmark questions from files.

        Args:
            files: .jsonl, .json or .parquet files. Each row holds its question, as text or messages, in one of
                QUESTION_FIELDS.

        Raises:
            UsageError: A file cannot be read or is empty, or a row has no question. The message names file and row.
        """
        questions: set[str] = set()
        ngrams: set[int] = set()
        for name in files:
            count = 0
            for where, row in require_rows(read_table(Path(name), QUESTION_FIELDS.__contains__)):
                for text in _extract_questions(row, where):
                    questions.add(fold_text(text))
                    ngrams.update(_hash_ngrams(text))
                count += 1
            # An empty benchmark would silently let every example pass.
            if not count:
                raise UsageError(f"--benchmark {name}: the file has no rows")
        return cls(frozenset(questions), frozenset(ngrams))

    def __call__(self, examples: Sequence[TrainingExample]) -> StepResult:
        """Split examples into clean and contaminated ones."""
        return split_examples(examples, self._find_contamination)

    def _find_contamination(self, example: TrainingExample) -> DropRecord | None:
        # Questions of fewer than 13 words have no n-gram, so whole questions are compared too.
        if fold_text(example.question) in self.questions:
            return example.record_drop("benchmark question")
        if any(ngram in self.ngrams for text in example.texts for ngram in _hash_ngrams(text)):
            return example.record_drop(f"{NGRAM_SIZE}-word overlap with a benchmark")
        return None


def _hash_ngrams(text: str) -> Iterator[int]:
    # Hashes take far less memory than the n-grams. They are compared within one process only, so Python's per-process
    # hash seed does not matter.
    words = _WORD.findall(fold_text(text))
    for start in range(len(words) - NGRAM_SIZE + 1):
        yield hash(tuple(words[start : start + NGRAM_SIZE]))


def _extract_questions(row: Mapping[str, Any], where: str) -> list[str]:
    value = next((row[name] for name in QUESTION_FIELDS if row.get(name) is not None), None)
    texts = [text for text in _iter_user_texts(value) if text.strip()]
    if not texts:
        fields = ", ".join(QUESTION_FIELDS)
        raise UsageError(f"{where}: no question text found; expected text or messages in one of the fields {fields}")
    return texts


def _iter_user_texts(value: Any) -> Iterator[str]:
    """Yield the texts of a prompt. Only user messages count: system prompts are shared by many benchmarks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _iter_user_texts(part)
    elif isinstance(value, Mapping) and value.get("role") in ("user", None):
        yield from _iter_user_texts(value.get("content", value.get("text")))
